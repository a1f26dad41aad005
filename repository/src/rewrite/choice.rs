//! Which packs are worth rewriting. Pure.
use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::pack::PackId;

/// `rewrite`: from how much waste on a pack is rewritten, or `off`. `rewrite_overall`: how much of the whole repository such packs
/// must waste. `rewrite_budget`: bytes moved in one run.
pub const SETTINGS: [&str; 3] = ["rewrite", "rewrite_overall", "rewrite_budget"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Percent of a pack that lies unused, from 1 to 99; none: nothing is rewritten.
    pub pack: Option<u8>,
    /// Percent of all packs' bytes.
    pub overall: u8,
    pub budget: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pack: Some(50), overall: 10, budget: 1 << 30 }
    }
}

/// A pack, and how many of its bytes are used: at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub pack: PackId,
    pub size: u64,
    pub live: u64,
}

impl Used {
    pub fn waste(&self) -> u64 {
        self.size.saturating_sub(self.live)
    }
}

impl Limits {
    /// Settings of other things are passed over.
    pub fn read(settings: &HashMap<String, String>) -> Result<Self> {
        let get = |key: &str| settings.get(key).map(|value| value.trim());
        let mut limits = Self::default();
        match get("rewrite") {
            Some("off") => limits.pack = None,
            Some(text) => limits.pack = Some(percent("rewrite", text)?),
            None => {}
        }
        if let Some(text) = get("rewrite_overall") {
            limits.overall = percent("rewrite_overall", text)?;
        }
        if let Some(text) = get("rewrite_budget") {
            limits.budget = bytes(text)?;
        }
        Ok(limits)
    }

    /// A pack of that size that has so much in use is left alone.
    pub fn spares(&self, size: u64, live: u64) -> bool {
        let Some(percent) = self.pack else { return true };
        u128::from(size.saturating_sub(live)) * 100 < u128::from(size) * u128::from(percent) || size == 0
    }

    /// The worthiest that the budget allows: what frees most for each byte moved. At least one, or a single pack that is larger
    /// than the budget would stay for ever.
    pub fn within_budget(&self, used: &[Used]) -> Vec<Used> {
        let mut worth: Vec<Used> =
            used.iter().filter(|used| !self.spares(used.size, used.live)).copied().collect();
        let share = |a: &Used, b: &Used| u128::from(a.live) * u128::from(b.size);
        worth.sort_by(|a, b| share(a, b).cmp(&share(b, a)).then(a.pack.cmp(&b.pack)));
        let mut moved = 0u64;
        let fits = |used: &Used| {
            let first = moved == 0;
            moved = moved.saturating_add(used.live);
            first || moved <= self.budget
        };
        worth.into_iter().take_while(fits).collect()
    }
}

/// In the order in which they are to be rewritten. `wasted`: by all packs over the limit; `total`: bytes of all packs in use.
pub fn choose(used: &[Used], wasted: u64, total: u64, limits: &Limits) -> Vec<PackId> {
    if u128::from(wasted) * 100 < u128::from(total) * u128::from(limits.overall) {
        return Vec::new();
    }
    limits.within_budget(used).into_iter().map(|used| used.pack).collect()
}

fn percent(key: &str, text: &str) -> Result<u8> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    number.filter(|number| (1..100).contains(number)).ok_or_else(|| {
        Error::invalid(format!("{key} {text:?}")).with_hint("percents from 1% to 99%; rewrite may be \"off\"")
    })
}

fn bytes(text: &str) -> Result<u64> {
    let units = [("MiB", 1u64 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let parse = |(unit, size): &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*size).filter(|bytes| *bytes > 0)
    };
    units.iter().find_map(parse).ok_or_else(|| {
        Error::invalid(format!("rewrite_budget {text:?}")).with_hint("such as 500MiB, 1GiB or 1TiB")
    })
}

#[cfg(test)]
mod tests;
