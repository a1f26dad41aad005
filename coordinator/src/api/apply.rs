//! Making and changing a service. Applying the same again changes nothing.
use std::collections::{BTreeSet, HashMap};

use palinurus_proto::v1;
use palinurus_repository::id::check_name;
use palinurus_repository::{Epoch, Error, ErrorKind, Repository, Result};

use crate::actor::ask;
use crate::actor::coordinator::CoordinatorMsg;
use crate::actor::service::ServiceMsg;
use crate::door::Lead;
use crate::plans::{Plans, Type};
use crate::retention;
use crate::settings::{self, in_force, said};
use crate::state::{Expect, Versioned};

/// More starts without reach of the repository than any coordinator makes.
const EPOCHS_UNSEEN: u64 = 1 << 32;
/// Of the backups that would go.
const NAMED: usize = 10;

impl Lead {
    pub(super) async fn apply(&self, request: v1::ApplyServiceRequest) -> Result<v1::Service> {
        let accept_forget = request.accept_forget;
        let wanted = planned(request.service.unwrap_or_default(), &self.shared.config.plans)?;
        let _applying = self.shared.applying.lock().await;
        let known = self.shared.records.services().await?;
        let Some(current) = known.iter().find(|service| service.value.name == wanted.name) else {
            return self.make(wanted, &known, accept_forget).await;
        };
        if !wanted.repository.is_empty() && wanted.repository != current.value.repository {
            return Err(Error::conflict(format!(
                "service {} has its backups in {}, which cannot change to {}",
                wanted.name, current.value.repository, wanted.repository
            ))
            .with_hint("make another service for the other repository"));
        }
        let service = match self.service(&wanted.name).await {
            // It was stored, and whoever made it was not told so.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let record = Box::new(current.clone());
                ask(&self.root, |to| CoordinatorMsg::Add(record, to)).await?
            }
            found => found?,
        };
        if !accept_forget {
            self.forgets_nothing(&current.value, &wanted).await?;
        }
        ask(&service, |to| ServiceMsg::Apply(Box::new(wanted), to)).await
    }

    /// Of a service with a plan, before or after: backups that retention keeps now, and would not then.
    async fn forgets_nothing(&self, current: &v1::Service, wanted: &v1::Service) -> Result<()> {
        // Also of one that is off: it would go when it is on again.
        let (before, after) = (said(current), said(wanted));
        let has_plan = !current.plan.is_empty() || !wanted.plan.is_empty();
        if !has_plan || retention::policy(&before) == retention::policy(&after) {
            return Ok(());
        }
        let repository = Self::vault(&self.service(&current.name).await?).await?.repository.clone();
        goes_at_once(&repository, &before, &after).await
    }

    async fn make(
        &self,
        wanted: v1::Service,
        known: &[Versioned<v1::Service>],
        accept_forget: bool,
    ) -> Result<v1::Service> {
        if wanted.repository.is_empty() {
            return Err(Error::invalid(format!("service {} names no repository", wanted.name))
                .with_hint("say where its backups are to lie: file:///absolute/path"));
        }
        if let Some(other) = known.iter().find(|service| service.value.repository == wanted.repository) {
            return Err(used(&wanted.repository, &other.value.name));
        }
        let repository = self.open_or_create(&wanted.repository).await?;
        let id = repository.id().to_string();
        // The same place under another URL.
        if let Some(other) = known.iter().find(|service| service.value.repository_id == id) {
            return Err(used(&wanted.repository, &other.value.name));
        }
        if !accept_forget && !wanted.plan.is_empty() {
            goes_at_once(&repository, &HashMap::new(), &in_force(&wanted)).await?;
        }
        let led = repository.read(|state| state.leader().0).await;
        let nodes = wanted.nodes.iter().map(|node| v1::NodeSpec { succeeds: Vec::new(), ..node.clone() });
        let service = v1::Service {
            nodes: nodes.collect(),
            repository_id: id,
            created_ms: self.shared.now().0,
            epoch_base: epoch_base(led, self.shared.records.epoch()),
            ..wanted
        };
        if led > Epoch(0) {
            tracing::warn!(
                service = service.name,
                repository = service.repository,
                epoch = led.0,
                "takes over a repository that another coordinator has led: that one is fenced"
            );
        }
        let revision = self.shared.records.put_service(&service, Expect::Absent).await?;
        let record = Box::new(Versioned { value: service.clone(), revision });
        ask(&self.root, |to| CoordinatorMsg::Add(record, to)).await?;
        Ok(service)
    }

    async fn open_or_create(&self, url: &str) -> Result<Repository> {
        let world = &self.shared.world;
        let storage = world.stores.open(url)?;
        match self.shared.keys.open(storage.clone()).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = self.shared.keys.first()?;
                Repository::create(storage, &key, &*world.entropy, world.clock.clone()).await
            }
            other => other,
        }
    }
}

/// Refused where backups that stay by the one policy go by the other.
async fn goes_at_once(
    repository: &Repository,
    before: &HashMap<String, String>,
    after: &HashMap<String, String>,
) -> Result<()> {
    let (backups, now) = (repository.backups().await, repository.now());
    let kept = |settings| retention::verdicts(&backups, settings, now).into_iter();
    let each = backups.iter().zip(kept(before).zip(kept(after)));
    let go = each.filter(|(_, (before, after))| before.keeps() && !after.keeps());
    let go: Vec<String> = go.map(|(backup, _)| backup.id.to_string()).collect();
    if go.is_empty() {
        return Ok(());
    }
    let more = match go.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = go.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let what = format!("{} of {} backups would go at once: {named}{more}", go.len(), backups.len());
    Err(Error::conflict(what).with_hint(
        "say --accept-forget to let them go; `palinurus backup pin` keeps one whatever the plan says",
    ))
}

fn used(url: &str, by: &str) -> Error {
    Error::conflict(format!("repository {url} is used by service {by}"))
        .with_hint("every service has a repository of its own: name another place")
}

/// What is added to each of our epochs so that they are above all that the repository and its agents have seen: a
/// coordinator that lost its state begins to count anew. Agents may have met starts that never led the repository.
fn epoch_base(led: Epoch, ours: Epoch) -> u64 {
    if led > Epoch(0) { led.0.max(ours.0) + EPOCHS_UNSEEN } else { 0 }
}

fn validate(service: &v1::Service, kind: &Type) -> Result<()> {
    name("service", &service.name, b"-")?;
    if !service.repository.is_empty() && service.repository.split_once(':').is_none() {
        return Err(Error::invalid(format!("repository {:?} is no URL", service.repository))
            .with_hint("write file:///absolute/path"));
    }
    if service.nodes.is_empty() {
        return Err(Error::invalid(format!("service {} has no nodes", service.name)));
    }
    let mut seen = BTreeSet::new();
    for node in &service.nodes {
        name("node", &node.name, b".-")?;
        if !seen.insert(&node.name) {
            return Err(Error::invalid(format!("node {} is named twice", node.name)));
        }
    }
    if service.nodes.iter().all(|node| node.spare) {
        return Err(Error::invalid(format!("service {} has spares only", service.name))
            .with_hint("a spare holds nothing: name the nodes that do"));
    }
    settings::check(&service.name, kind, &in_force(service))
}

/// With what its plan stands for.
fn planned(wanted: v1::Service, plans: &Plans) -> Result<v1::Service> {
    let kind = Type::named(&wanted.r#type)?;
    let plan_settings = match wanted.plan.as_str() {
        "" => HashMap::new(),
        plan => plans.find(kind, plan)?.settings,
    };
    let service = v1::Service { plan_settings, standing: None, power: None, ..wanted };
    validate(&service, kind)?;
    Ok(service)
}

/// Names become parts of object names, which have no capitals.
fn name(what: &str, name: &str, also: &[u8]) -> Result<()> {
    check_name(what, name)?;
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || also.contains(&b)) {
        return Ok(());
    }
    let also = also.iter().map(|b| format!("'{}'", char::from(*b))).collect::<Vec<_>>().join(" and ");
    Err(Error::invalid(format!("{what} name {name:?} is not usable"))
        .with_hint(format!("use small letters, digits, {also}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> v1::Service {
        v1::Service {
            name: "shop-1".to_owned(),
            r#type: "files".to_owned(),
            repository: "file:///backups/shop".to_owned(),
            nodes: vec![v1::NodeSpec {
                name: "db1.example".to_owned(),
                zone: "a".to_owned(),
                ..Default::default()
            }],
            settings: [("patience".to_owned(), "5m".to_owned())].into(),
            ..Default::default()
        }
    }

    fn check(service: v1::Service) -> Result<v1::Service> {
        planned(service, &Plans::default())
    }

    #[test]
    fn what_is_wrong_is_refused_and_told() {
        check(service()).unwrap();
        for policy in ["allow", "refuse"] {
            let settings = [("partial".to_owned(), policy.to_owned())].into();
            check(v1::Service { settings, ..service() }).unwrap();
        }
        type Change = fn(&mut v1::Service);
        let wrong: [(Change, &str); 15] = [
            (|s| s.name = "Shop".to_owned(), "Shop"),
            (|s| s.name = "a.b".to_owned(), "a.b"),
            (|s| s.name.clear(), "service name"),
            (|s| s.r#type = "oracle".to_owned(), "oracle"),
            (|s| s.repository = "/backups".to_owned(), "/backups"),
            (|s| s.nodes.clear(), "no nodes"),
            (|s| s.nodes.push(s.nodes[0].clone()), "twice"),
            (|s| s.nodes[0].name = "../x".to_owned(), "../x"),
            (|s| s.nodes[0].spare = true, "spares only"),
            (|s| drop(s.settings.insert("failover".to_owned(), "perhaps".to_owned())), "perhaps"),
            (|s| drop(s.settings.insert("failover_from".to_owned(), "replica".to_owned())), "no replicas"),
            (|s| drop(s.settings.insert("partial".to_owned(), "maybe".to_owned())), "maybe"),
            (|s| drop(s.settings.insert("retention".to_owned(), "1".to_owned())), "retention"),
            (|s| drop(s.settings.insert("keep_last".to_owned(), "few".to_owned())), "few"),
            (|s| drop(s.settings.insert("scrub".to_owned(), "5".to_owned())), "scrub"),
        ];
        for (change, told) in wrong {
            let mut service = service();
            change(&mut service);
            let error = check(service).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.what().contains(told), "{error:?}");
        }
        let mut unknown = service();
        unknown.settings.insert("x".to_owned(), String::new());
        assert!(check(unknown).unwrap_err().hint().unwrap().contains("patience"));
    }

    #[test]
    fn epochs_go_on_above_what_the_repository_has_seen() {
        assert_eq!(epoch_base(Epoch(0), Epoch(1)), 0);
        // A leader between the two may never have reached the repository, and agents have seen it.
        for (led, ours) in [(3, 7), (7, 7), (9, 1)] {
            assert!(epoch_base(Epoch(led), Epoch(ours)) + ours > led + 100);
        }
    }
}
