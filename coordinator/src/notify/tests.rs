use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::{ErrorKind, Timestamp};

use super::book::OWED_MAX;
use super::webhook::signature;
use super::*;
use crate::config::NotifyConfig;
use crate::state::{Election, Expect, Lease, Link, MemoryElection, MemoryStore, Records};

struct World {
    store: Arc<MemoryStore>,
    entropy: SeededEntropy,
}

/// One leader's time.
struct Term {
    book: Book,
    link: Link,
    lease: Lease,
    _election: MemoryElection,
}

impl World {
    fn new() -> Self {
        Self { store: Arc::default(), entropy: SeededEntropy::new(7) }
    }

    async fn lead(&self, name: &str, channels: &[&str]) -> Term {
        let election = MemoryElection::new(&self.store, name, Duration::from_secs(10));
        let lease = election.campaign("here").await.unwrap();
        let channels = channels.iter().map(|name| (*name).to_owned()).collect();
        let book = Book::load(Records::new(lease.state.clone()), channels).await.unwrap();
        Term { book, link: election.link(), lease, _election: election }
    }

    /// The id, when it was not told yet.
    async fn tell(&self, term: &mut Term, service: &str, key: &str) -> Option<String> {
        term.book.record(&notice(service, key), &self.entropy).await.unwrap().map(|owed| owed.id)
    }
}

impl Term {
    async fn end(self) {
        self.lease.resign.resign().await;
    }

    fn owes(&self, channel: &str) -> Option<String> {
        self.book.next(channel, "").map(|owed| owed.id)
    }
}

fn notice(service: &str, key: &str) -> Notice {
    Notice {
        service: service.to_owned(),
        kind: Kind::Health,
        key: key.to_owned(),
        at: Timestamp(1_772_000_000_000),
        what: format!("service {service} is {key}"),
        why: "because".to_owned(),
        details: BTreeMap::new(),
        urgent: true,
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_owes_the_same_and_repeats_nothing() {
    let world = World::new();
    let mut one = world.lead("c1", &["ops", "mail"]).await;
    let shop = v1::Service { name: "shop".into(), ..Default::default() };
    Records::new(one.lease.state.clone()).put_service(&shop, Expect::Absent).await.unwrap();
    assert_eq!(world.tell(&mut one, "shop", "unknown").await, None, "as it was before anything was told");
    let late = world.tell(&mut one, "shop", "late").await.unwrap();
    assert_eq!(world.tell(&mut one, "shop", "late").await, None);
    // Of a service that there is not any more, what is owed is kept, and no more than that.
    let gone = world.tell(&mut one, "gone", "late").await.unwrap();
    one.book.settle("shop", &late, "ops").await.unwrap();
    one.end().await;

    let mut two = world.lead("c2", &["ops", "mail"]).await;
    for channel in ["ops", "mail"] {
        two.book.settle("gone", &gone, channel).await.unwrap();
    }
    assert_eq!((two.owes("ops"), two.owes("mail")), (None, Some(late.clone())));
    assert_eq!(world.tell(&mut two, "shop", "late").await, None, "it was told by the leader before");
    two.book.settle("shop", &late, "mail").await.unwrap();
    two.end().await;

    let mut three = world.lead("c3", &["ops"]).await;
    assert_eq!((three.owes("ops"), three.owes("mail")), (None, None));
    assert_eq!(world.tell(&mut three, "shop", "late").await, None);
    let records = Records::new(three.lease.state.clone());
    assert!(
        records.outbox("gone").await.unwrap().is_none() && records.outbox("shop").await.unwrap().is_some()
    );
    let good = world.tell(&mut three, "shop", "protected").await.unwrap();
    assert_ne!(good, late);
    let owed = three.book.next("ops", "").unwrap();
    let body: serde_json::Value = serde_json::from_slice(&owed.json()).unwrap();
    assert_eq!((&body["was"], &body["is"], &body["id"]), (&"late".into(), &"protected".into(), &good.into()));
    three.end().await;

    // A channel that is configured no longer is owed nothing.
    let four = world.lead("c4", &["mail"]).await;
    assert_eq!((four.owes("ops"), four.owes("mail")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_without_an_answer_is_recorded_once() {
    let world = World::new();
    let mut term = world.lead("c1", &["ops"]).await;
    term.link.cut_answers();
    let error = term.book.record(&notice("shop", "late"), &world.entropy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    term.link.mend();
    // The first try meets what landed, the second goes on from it.
    let again = term.book.record(&notice("shop", "late"), &world.entropy).await;
    assert!(again.is_err(), "{again:?}");
    assert_eq!(world.tell(&mut term, "shop", "late").await, None);
    let id = term.owes("ops").unwrap();
    term.book.settle("shop", &id, "ops").await.unwrap();
    assert_eq!(term.owes("ops"), None);
}

#[tokio::test(start_paused = true)]
async fn services_take_turns_and_each_tells_in_its_order() {
    let world = World::new();
    let mut term = world.lead("c1", &["ops"]).await;
    for service in ["a", "b"] {
        for key in ["late", "failing"] {
            world.tell(&mut term, service, key).await.unwrap();
        }
    }
    let next = |term: &Term, after: &str| {
        let owed = term.book.next("ops", after).unwrap();
        (owed.service.clone(), owed.key)
    };
    let is = |service: &str, key: &str| (service.to_owned(), key.to_owned());
    assert_eq!(next(&term, ""), is("a", "late"));
    assert_eq!(next(&term, "a"), is("b", "late"), "one that cannot be delivered is not tried for ever");
    assert_eq!(next(&term, "b"), is("a", "late"));
    let first = term.owes("ops").unwrap();
    term.book.settle("a", &first, "ops").await.unwrap();
    assert_eq!(next(&term, "b"), is("a", "failing"));
    // Bounded: the oldest goes.
    for n in 0..OWED_MAX {
        world.tell(&mut term, "b", &n.to_string()).await.unwrap();
    }
    assert_eq!(next(&term, "a"), is("b", "0"));
}

#[test]
fn what_waits_is_the_newest_of_its_kind() {
    let notices = Notices::default();
    for key in ["late", "failing"] {
        notices.tell(notice("shop", key));
    }
    let mut waiting = notices.take();
    assert_eq!(waiting.len(), 1);
    let (_, failing) = waiting.pop_first().unwrap();
    assert_eq!(failing.key, "failing");
    notices.tell(notice("shop", "protected"));
    notices.give_back(failing);
    assert_eq!(notices.take().pop_first().unwrap().1.key, "protected");
}

#[test]
fn pauses_grow_and_end_somewhere() {
    assert_eq!((pause(1), pause(2), pause(3)), (PAUSE_FIRST, PAUSE_FIRST * 2, PAUSE_FIRST * 4));
    assert_eq!((pause(10), pause(u32::MAX)), (PAUSE_LONGEST, PAUSE_LONGEST));
}

/// The example in docs/operations/notifications.md, made with `openssl dgst -sha256 -hmac`.
#[test]
fn a_signature_is_what_the_documentation_says() {
    assert_eq!(
        signature("secret", "1772000000", b"{\"version\":1}"),
        "v1=a1eb44d021514083fc7d8955d4e3c8316eb98246f525bb20d7c3d22d1aafade3"
    );
}

#[test]
fn settings_that_would_tell_the_wrong_ones_are_refused_without_a_word_of_secrets() {
    let parse = |text: &str| crate::config::Config::parse(text);
    for bad in [
        "[[notify.webhook]]",
        "[[notify.webhook]]\nurl = 'http://hooks.example/secret'",
        "[[notify.webhook]]\nurl = 'ftp://hooks.example/secret'",
        "[[notify.webhook]]\nurl = 'https://me:secret@hooks.example/'",
        "[[notify.webhook]]\nurl = 'https://hooks.example'\nurl_file = '/u'",
        "[[notify.webhook]]\nurl = 'https://hooks.example'\ntimeout = '0s'",
        "[[notify.webhook]]\nurl = 'https://a.example'\n[[notify.webhook]]\nurl = 'https://b.example'",
        "[[notify.email]]\nserver = 'mail.example'\nfrom = 'a@b.example'\nto = ['a@b.example']",
        "[[notify.email]]\nserver = 'mail.example:25'\ntls = 'none'\nfrom = 'a@b.example'\nto = ['a@b.example']",
        "[[notify.email]]\nserver = 'mail.example:25'\nuser = 'a'\nfrom = 'a@b.example'\nto = ['a@b.example']",
        "[[notify.email]]\nserver = 'mail.example:25'\nfrom = 'nobody'\nto = ['a@b.example']",
        "[[notify.email]]\nserver = 'mail.example:25'\nfrom = 'a@b.example'",
        "[notify]\ngive_up_after = '0s'",
    ] {
        let error = parse(bad).unwrap_err();
        assert!(!format!("{error:?} {}", error.chain()).contains("secret@"), "{error:?}");
        assert!(!error.chain().contains("example/secret"), "{error:?}");
    }
    let good = "[[notify.webhook]]\nname = 'ops'\nurl = 'https://hooks.example/T0/secret'\n\
                [[notify.webhook]]\nname = 'here'\nurl = 'http://[::1]:80/'\n\
                [[notify.email]]\nserver = '127.0.0.1:25'\ntls = 'none'\nfrom = 'P <a@b.example>'\nto = ['a@b.example']";
    let config: NotifyConfig = parse(good).unwrap().notify;
    assert!(!format!("{config:?}").contains("T0"), "{config:?}");
}
