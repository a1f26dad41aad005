//! A flipped, cut, swapped or missing object of every kind is named by the check, and never served.
use std::fs;
use std::path::{Path, PathBuf};

use palinurus_tests::seeded::Random;
use palinurus_tests::world::files_below;
use palinurus_tests::{World, compare};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Flip,
    Cut,
    Missing,
    /// Another object of the same kind lies under its name.
    Swap,
}

const FAULTS: [Fault; 4] = [Fault::Flip, Fault::Cut, Fault::Missing, Fault::Swap];

/// `p`, `x`, `m`, `ledger`, ...
fn kind(object: &str) -> &str {
    let mut parts = object.split('/');
    match parts.next() {
        Some("t") => parts.nth(1).unwrap(),
        other => other.unwrap(),
    }
}

fn damage(fault: Fault, file: &Path, other: Option<&PathBuf>) -> bool {
    let bytes = fs::read(file).unwrap();
    let mut bad = bytes.clone();
    match fault {
        Fault::Flip => bad[bytes.len() / 2] ^= 0x10,
        Fault::Cut => bad.truncate(bytes.len() / 2),
        Fault::Missing => {
            fs::remove_file(file).unwrap();
            return true;
        }
        Fault::Swap => match other {
            Some(other) => bad = fs::read(other).unwrap(),
            None => return false,
        },
    }
    // A new file: objects are hard links of what was put, and stay as they are for the mending.
    fs::remove_file(file).unwrap();
    fs::write(file, bad).unwrap();
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_every_kind_is_named_and_never_served() {
    let mut world = World::new(&["n1", "n2"]);
    let mut random = Random::new(3);
    for node in ["n1", "n2"] {
        for i in 0..6 {
            fs::write(world.data(node).join(format!("{i}")), random.bytes(700_000)).unwrap();
        }
    }
    world.start().await;
    world.backup().await;
    fs::write(world.data("n1").join("more"), random.bytes(700_000)).unwrap();
    world.backup().await;
    world.stop().await;

    let url = world.repository_url();
    let key = world.key();
    let keys = key.to_str().unwrap();
    let check = ["repository", "check", "--repository", &url, "--keys", keys, "--read-data"];
    world.run(&check).await.expect(0);

    let object = |file: &Path| file.strip_prefix(world.repository()).unwrap().to_str().unwrap().to_owned();
    // A label is a key's name for people: no backup hangs on it, and a check does not read it.
    let files: Vec<PathBuf> = files_below(world.repository())
        .into_iter()
        .filter(|path| path.is_file() && !object(path).starts_with("labels/"))
        .collect();
    let mut kinds: Vec<String> = files.iter().map(|file| kind(&object(file)).to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    for expected in ["keys", "ledger", "m", "p", "repo", "x"] {
        assert!(kinds.iter().any(|kind| kind == expected), "{expected} is not among {kinds:?}");
    }
    for kind_name in &kinds {
        let of_kind: Vec<&PathBuf> = files.iter().filter(|file| kind(&object(file)) == kind_name).collect();
        // Not the first record of the ledger nor its last: the last one's loss is the loss of what it says.
        let victim = of_kind[of_kind.len() / 2];
        let other = of_kind.iter().find(|file| **file != victim).copied();
        let name = object(victim);
        for fault in FAULTS {
            let safe = fs::read(victim).unwrap();
            if !damage(fault, victim, other) {
                continue;
            }
            let ran = world.run(&check).await;
            let said = format!("{}{}", ran.stdout, ran.stderr);
            match (fault, kind_name.as_str()) {
                // Then it is no repository, or none of these keys'.
                (Fault::Missing, "repo") => assert_eq!(ran.code, 1, "{said}"),
                (Fault::Missing, "keys") => assert_eq!(ran.code, 7, "{said}"),
                // No record says how many there were: what they held is said to be in none.
                (Fault::Missing, "x") => {
                    assert_eq!(ran.code, 6, "{said}");
                    assert!(said.contains(name.rsplit_once('/').unwrap().0), "{said}");
                }
                _ => {
                    assert_eq!(ran.code, 6, "{fault:?} of {name}\n{said}");
                    // Without its ledger nothing else of a repository can be looked at: its number is said.
                    let number =
                        name.strip_prefix("ledger/").map(|n| format!("record {}", n.trim_start_matches('0')));
                    let named = said.contains(&name) || number.is_some_and(|number| said.contains(&number));
                    assert!(named, "{fault:?} of {name} is not named:\n{said}");
                }
            }
            // What is damaged is not restored as if it were whole.
            let target = world.path("target");
            let target_name = target.to_str().unwrap();
            let restore =
                ["restore", "--repository", &url, "--keys", keys, "--node", "n1", "--target", target_name];
            let restored = world.run(&restore).await;
            if restored.code == 0 {
                compare::assert_equal(&world.data("n1"), &target, &[]);
            } else {
                assert!(!restored.stderr.is_empty());
            }
            let _ = fs::remove_dir_all(&target);
            let _ = fs::remove_file(victim);
            fs::write(victim, safe).unwrap();
        }
    }
    world.run(&check).await.expect(0);
}
