#![allow(clippy::unwrap_used, reason = "a test")]
use proptest::prelude::*;

use super::*;
use crate::ledger::fixture::pack;

fn limits() -> impl Strategy<Value = Limits> {
    (proptest::option::of(1u8..100), 1u8..100, 1u64..2000).prop_map(|(pack, overall, budget)| Limits {
        pack,
        overall,
        budget,
    })
}

fn packs() -> impl Strategy<Value = Vec<Used>> {
    let one = (0u64..1000).prop_flat_map(|size| (Just(size), 0..=size));
    proptest::collection::vec(one, 0..30).prop_map(|all| {
        let used = |(n, (size, live)): (u32, (u64, u64))| Used { pack: pack(1, n), size, live };
        (0..).zip(all).map(used).collect()
    })
}

proptest! {
    #[test]
    fn only_what_is_wasted_goes_and_the_worst_goes_first(used in packs(), spare in 0u64..100_000, limits in limits()) {
        let over: Vec<&Used> = used.iter().filter(|used| !limits.spares(used.size, used.live)).collect();
        let wasted: u64 = over.iter().map(|used| used.waste()).sum();
        let total = used.iter().map(|used| used.size).sum::<u64>() + spare;
        let chosen = choose(&used, wasted, total, &limits);
        let of = |pack: &PackId| *used.iter().find(|used| used.pack == *pack).unwrap();
        let chosen: Vec<Used> = chosen.iter().map(of).collect();
        for one in &chosen {
            prop_assert!(one.waste() * 100 >= one.size * u64::from(limits.pack.unwrap()), "{one:?}");
            prop_assert!(one.waste() > 0);
        }
        for pair in chosen.windows(2) {
            prop_assert!(pair[0].live * pair[1].size <= pair[1].live * pair[0].size, "the worthier first");
        }
        if wasted * 100 < total * u64::from(limits.overall) {
            prop_assert!(chosen.is_empty(), "not worth it overall");
            return Ok(());
        }
        let bytes: u64 = chosen.iter().map(|used| used.live).sum();
        let costly = chosen.iter().filter(|used| used.live > 0).count();
        prop_assert!(bytes <= limits.budget || costly == 1, "{bytes} over the budget");
        if chosen.len() < over.len() {
            let next = over.iter().filter(|used| !chosen.contains(used)).map(|used| used.live).min().unwrap();
            let most = over.iter().map(|used| used.live).max().unwrap();
            prop_assert!(bytes + most > limits.budget && next > 0, "it stops only at the budget");
        }
    }

    /// Taken in pieces, as the counting does, nothing is lost.
    #[test]
    fn what_is_pruned_on_the_way_would_not_be_chosen(used in packs(), at in 0usize..30, limits in limits()) {
        let (first, second) = used.split_at(at.min(used.len()));
        let mut kept = limits.within_budget(first);
        kept.extend(second);
        // One too large for what was left of the budget may be gone by then, and smaller ones take its place.
        prop_assert!(limits.within_budget(&kept).starts_with(&limits.within_budget(&used)));
    }
}

#[test]
fn settings_are_read_and_nonsense_is_refused() {
    let read = |pairs: &[(&str, &str)]| {
        Limits::read(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    assert_eq!(read(&[]).unwrap(), Limits { pack: Some(50), overall: 10, budget: 1 << 30 });
    assert_eq!(read(&[("rewrite", "off")]).unwrap().pack, None);
    let all = [("rewrite", "30%"), ("rewrite_overall", "5 %"), ("rewrite_budget", "20 MiB")];
    assert_eq!(read(&all).unwrap(), Limits { pack: Some(30), overall: 5, budget: 20 << 20 });
    for (key, value) in [
        ("rewrite", "50"),
        ("rewrite", "0%"),
        ("rewrite", "100%"),
        ("rewrite_overall", "off"),
        ("rewrite_budget", "0MiB"),
        ("rewrite_budget", "1"),
        ("rewrite_budget", "99999999999TiB"),
    ] {
        assert!(read(&[(key, value)]).is_err(), "{key} = {value}");
    }
}
