use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use palinurus_proto::v1;
use palinurus_repository::ErrorKind;
use prost::Message;

use super::*;

fn rpcs(set: &[u8]) -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(set).unwrap();
    let services =
        set.file.iter().flat_map(|file| file.service.iter().map(move |each| (file.package(), each)));
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |rpc| format!("/{package}.{}/{}", service.name(), rpc.name()))
        })
        .collect()
}

/// A new call that nobody gave a role to fails here, and is refused to everybody who is asked who they are.
#[test]
fn every_call_there_is_has_a_role_and_every_role_a_call() {
    let ours = rpcs(palinurus_proto::FILE_DESCRIPTOR_SET);
    let health = rpcs(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection =
        ["v1", "v1alpha"].map(|of| format!("/grpc.reflection.{of}.ServerReflection/ServerReflectionInfo"));
    let there: BTreeSet<String> = ours.into_iter().chain(health).chain(reflection).collect();
    let table: BTreeSet<String> = TABLE.iter().map(|(rpc, ..)| (*rpc).to_owned()).collect();
    let without: Vec<_> = there.difference(&table).collect();
    assert!(without.is_empty(), "give a role in access.rs to {without:?}");
    let gone: Vec<_> = table.difference(&there).filter(|rpc| !rpc.contains("Health/List")).collect();
    assert!(gone.is_empty(), "these are no calls any more: {gone:?}");
    assert_eq!(table.len(), TABLE.len(), "one role each");
}

fn operator(role: Role) -> Caller {
    Caller::Holder(Who::Operator { name: "ada".into(), role })
}

fn tenant(services: &[&str]) -> Caller {
    let services = services.iter().map(|name| (*name).to_owned()).collect();
    Caller::Holder(Who::Tenant { name: "eve".into(), services })
}

fn agent(spare: bool) -> Caller {
    Caller::Holder(Who::Agent { service: "shop".into(), node: "n1".into(), spare })
}

#[test]
fn each_may_do_its_part_and_no_more() {
    let coordinator = Caller::Holder(Who::Coordinator { name: "c1".into() });
    let token = Caller::Token { name: "bob".into(), role: Role::Operator, services: Vec::new() };
    let all = |rpc| {
        let [viewer, operator, admin] = [Role::Viewer, Role::Operator, Role::Admin].map(operator);
        [
            tenant(&["shop"]),
            viewer,
            operator,
            admin,
            token.clone(),
            agent(false),
            coordinator.clone(),
            Caller::Nobody,
            Caller::Local,
        ]
        .map(|caller| caller.may(rpc).is_ok())
    };
    let row = |text: &str| -> [bool; 9] { std::array::from_fn(|at| text.as_bytes()[at] == b'x') };
    assert_eq!(all("/palinurus.v1.Coordinator/ListBackups"), row("xxxxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/StartBackup"), row("..xxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/DeleteBackup"), row("...x....x"));
    assert_eq!(all("/palinurus.v1.Coordinator/PowerOff"), row("..xxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/DeleteService"), row("...x....x"));
    assert_eq!(all("/palinurus.v1.Fleet/Session"), row(".....x..x"));
    assert_eq!(all("/grpc.health.v1.Health/Check"), row("xxxxxxxxx"));
    assert_eq!(all("/palinurus.v1.Coordinator/Unheard"), row("........."));
}

#[test]
fn an_agent_speaks_for_its_own_node_alone() {
    for caller in [agent(false), agent(true)] {
        caller.speaks_for("shop", "n1").unwrap();
        for (service, node) in [("shop", "n2"), ("other", "n1"), ("", ""), ("SHOP", "n1")] {
            let refused = caller.speaks_for(service, node).unwrap_err();
            assert_eq!(refused.kind(), palinurus_repository::ErrorKind::Denied);
        }
    }
    for caller in [operator(Role::Admin), Caller::Nobody] {
        assert!(caller.speaks_for("shop", "n1").is_err());
    }
}

/// What a tenant may call is read by name; a row that would let one change or begin something fails here.
#[test]
fn a_tenant_only_looks() {
    let eve = tenant(&["shop"]);
    for (rpc, needs, tenants) in TABLE {
        let may = eve.may(rpc);
        assert_eq!(may.is_ok(), *tenants != Tenants::No, "{rpc}");
        assert!(*tenants == Tenants::No || !needs.changes(), "{rpc} changes something");
        if let Err(e) = may {
            assert_eq!(e.kind(), ErrorKind::Denied, "{rpc}");
        }
    }
    for never in
        ["PlanRestore", "ApplyRestore", "PlanFailover", "StartBackup", "StartDrill", "CheckRepository"]
    {
        assert!(eve.may(&format!("/palinurus.v1.Coordinator/{never}")).is_err(), "{never}");
    }
    let token = Caller::Token { name: "eve".into(), role: Role::Tenant, services: vec!["shop".into()] };
    assert!(token.sees().service("shop") && !token.sees().service("blog") && !token.sees().service(""));
    assert!(operator(Role::Viewer).sees().service("blog"));
}

/// The type of each request, by its call.
fn requests() -> BTreeMap<String, prost_types::DescriptorProto> {
    let set = prost_types::FileDescriptorSet::decode(palinurus_proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages: BTreeMap<String, prost_types::DescriptorProto> = set
        .file
        .iter()
        .flat_map(|file| file.message_type.iter().map(move |it| (file.package(), it)))
        .map(|(package, it)| (format!(".{package}.{}", it.name()), it.clone()))
        .collect();
    let mut requests = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            for rpc in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), rpc.name());
                requests.insert(path, messages[rpc.input_type()].clone());
            }
        }
    }
    requests
}

/// The guard reads the service out of the first field: so it must be there, and be the only one that names any.
#[test]
fn what_a_tenant_names_is_where_the_guard_looks() {
    use prost_types::field_descriptor_proto::{Label, Type};
    let requests = requests();
    for (rpc, _, tenants) in TABLE {
        let Some(request) = requests.get(*rpc) else { continue };
        let first = request.field.iter().find(|field| field.number() == 1);
        let service = first.filter(|field| {
            field.name() == "service" && field.r#type() == Type::String && field.label() == Label::Optional
        });
        let others = ["into", "parent", "services"];
        match tenants {
            Tenants::No => continue,
            Tenants::Named => assert!(service.is_some(), "{rpc} names no service"),
            Tenants::Filtered => assert!(service.is_some() || request.field.is_empty(), "{rpc}"),
            Tenants::Operation => assert_eq!(request.name(), "GetOperationRequest", "{rpc}"),
            Tenants::Free => assert!(service.is_none(), "{rpc} names a service"),
        }
        let more = request.field.iter().find(|field| others.contains(&field.name()));
        assert!(more.is_none(), "{rpc} names another service too");
    }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// For each call that names a service: theirs, and anybody else's, whether there is one or not, in whatever way it is put.
#[test]
fn another_service_is_refused_in_the_same_words_whether_it_is_there_or_not() {
    let named = |service: &str| framed(&v1::GetServiceRequest { service: service.to_owned() });
    let sees = tenant(&["shop", "blog"]).sees();
    for (rpc, _, tenants) in TABLE {
        let request = http::Request::builder().uri(*rpc).body(()).unwrap();
        let Some(empty) = sees::names_service(&request) else {
            assert!(!matches!(tenants, Tenants::Named | Tenants::Filtered), "{rpc}");
            continue;
        };
        for own in ["shop", "blog"] {
            sees.check(&named(own), empty).unwrap();
        }
        assert_eq!(sees.check(&named(""), empty).is_ok(), *tenants == Tenants::Filtered, "{rpc}");
        let refusals = ["other", "nowhere", "Shop", "shop ", "shop/../other"].map(|service| {
            let refused = sees.check(&named(service), empty).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Denied, "{rpc} {service}");
            format!("{refused:?}")
        });
        assert!(refusals.iter().all(|said| *said == refusals[0] && !said.contains("other")), "{refusals:?}");
        // The last of a field counts, for the call as for the guard.
        let twice: Vec<u8> = [named("shop"), named("other")].iter().flat_map(|it| it[5..].to_vec()).collect();
        let mut body = vec![0];
        body.extend(u32::try_from(twice.len()).unwrap().to_be_bytes());
        body.extend(twice);
        assert!(sees.check(&body.into(), empty).is_err(), "{rpc}");
        // Neither two messages, nor one that is packed, nor half of one.
        let shop = named("shop");
        let two: Vec<u8> = [shop.clone(), named("other")].concat();
        let packed: Vec<u8> = [&[1], &shop[1..]].concat();
        for broken in [two, packed, shop[..shop.len() - 1].to_vec(), vec![0; 4]] {
            assert!(sees.check(&broken.into(), empty).is_err(), "{rpc}");
        }
    }
}

#[test]
fn an_operation_of_another_service_is_refused_like_one_that_is_not_there() {
    let operation = |id: &str, service: &str| {
        Arc::new(v1::Operation { id: id.into(), service: service.into(), ..Default::default() })
    };
    let all = [
        operation("aa11", "shop"),
        operation("aa22", "other"),
        operation("bb33", "shop"),
        operation("bb44", "shop"),
    ];
    let own = |caller: &Caller, id: &str| caller.sees().operation(id, all.clone().into_iter());
    let eve = tenant(&["shop"]);
    // What another service's are called makes nothing ambiguous.
    assert_eq!(own(&eve, "AA").unwrap(), Some("aa11".to_owned()));
    assert_eq!(own(&eve, "bb").unwrap_err().kind(), ErrorKind::Invalid);
    let refused = ["aa22", "cc", ""].map(|id| format!("{:?}", own(&eve, id).unwrap_err()));
    assert!(refused.iter().all(|said| *said == refused[0] && said.starts_with("denied")), "{refused:?}");
    assert_eq!(own(&operator(Role::Viewer), "aa22").unwrap(), None, "asked as ever");
}
