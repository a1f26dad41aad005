//! A backup under limits that would take it years, changed while it runs: nothing here hangs on how fast anything is.
use super::*;
use crate::pace::{Gate, Pace};

async fn held(gate: &Gate) {
    while gate.waited() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_a_backup_until_it_is_lifted() {
    let gates: [fn(&Pace) -> &Gate; 3] = [|pace| &pace.read, |pace| &pace.send, |pace| &pace.cpu];
    for (number, gate) in gates.into_iter().enumerate() {
        let world = Arc::new(World::new(90 + number as u64).await);
        mixed(&world.data("n1"));
        let context = world.context("n1", 1, None, classes);
        let pace = context.pace.clone();
        gate(&pace).set(1);
        let backup = {
            let world = world.clone();
            tokio::spawn(async move { world.backup(context).await })
        };
        held(gate(&pace)).await;
        assert!(!backup.is_finished());
        gate(&pace).set(0);
        let (reference, _) = backup.await.unwrap();
        world.assert_holds("n1", &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_ends_when_it_is_cancelled() {
    let world = World::new(93).await;
    mixed(&world.data("n1"));
    let context = world.context("n1", 1, None, classes);
    let (pace, cancel) = (context.pace.clone(), CancellationToken::new());
    pace.read.set(1);
    let upload = tokio::spawn(upload(context, cancel.clone()));
    held(&pace.read).await;
    cancel.cancel();
    let error = upload.await.unwrap().unwrap_err();
    assert_eq!(error.what(), "cancelled");
}

/// What was in the page cache stays there, and what comes of it is the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_are_the_same_with_the_page_cache_and_without() {
    let world = World::new(94).await;
    mixed(&world.data("n1"));
    let mut context = world.context("n1", 1, None, classes);
    for (transaction, spare) in [(1, false), (2, true)] {
        if transaction > 1 {
            context = world.context("n1", transaction, None, classes);
        }
        context.limits.spare_page_cache = spare;
        let (reference, _) = world.backup(context.clone()).await;
        world.assert_holds("n1", &reference).await;
    }
}
