//! Whose object is this? A store behind a network can carry a put out and lose the answer, or carry it out twice. Each
//! put bears a mark, kept with the object, so that its own first try is not taken for somebody else's.
use std::fmt::Write;

use crate::entropy::Entropy;
use crate::error::Result;

#[derive(Clone, Debug)]
pub struct Mark {
    text: String,
    again: bool,
}

impl Mark {
    pub fn draw(entropy: &dyn Entropy) -> Result<Self> {
        let mut text = String::with_capacity(32);
        for byte in entropy.array::<16>()? {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Self { text, again: false })
    }

    /// For another try, after one whose outcome is not known.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { text: self.text.clone(), again: true }
    }

    /// The object may be there already: look before sending it once more.
    pub fn is_again(&self) -> bool {
        self.again
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}
