//! A place below a store's URL.
use palinurus_repository::{Entropy, Result, SystemEntropy};

/// With a name that nobody has used.
pub(super) fn new(url: &str) -> Result<String> {
    let entropy: &dyn Entropy = &SystemEntropy::new();
    let name = u64::from_le_bytes(entropy.array()?);
    Ok(within(url, &format!("palinurus-bench-{name:016x}")))
}

/// Its settings stay.
pub(super) fn within(url: &str, name: &str) -> String {
    let (place, settings) = url.split_once('?').unwrap_or((url, ""));
    format!("{}/{name}?{settings}", place.trim_end_matches('/')).trim_end_matches('?').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_store_keeps_its_settings() {
        assert_eq!(
            within("s3://b/p/?endpoint=x&credentials=y", "r1"),
            "s3://b/p/r1?endpoint=x&credentials=y"
        );
        assert_eq!(within("s3://b/p", "r1"), "s3://b/p/r1");
    }
}
