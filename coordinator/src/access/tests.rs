use std::collections::BTreeSet;

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
    let table: BTreeSet<String> = TABLE.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    let without: Vec<_> = there.difference(&table).collect();
    assert!(without.is_empty(), "give a role in access.rs to {without:?}");
    let gone: Vec<_> = table.difference(&there).filter(|rpc| !rpc.contains("Health/List")).collect();
    assert!(gone.is_empty(), "these are no calls any more: {gone:?}");
    assert_eq!(table.len(), TABLE.len(), "one role each");
}

fn operator(role: Role) -> Caller {
    Caller::Holder(Who::Operator { name: "ada".into(), role })
}

fn agent(spare: bool) -> Caller {
    Caller::Holder(Who::Agent { service: "shop".into(), node: "n1".into(), spare })
}

#[test]
fn each_may_do_its_part_and_no_more() {
    let coordinator = Caller::Holder(Who::Coordinator { name: "c1".into() });
    let token = Caller::Token { name: "bob".into(), role: Role::Operator };
    let all = |rpc| {
        let [viewer, operator, admin] = Role::ALL.map(operator);
        [
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
    let row = |text: &str| -> [bool; 8] { std::array::from_fn(|at| text.as_bytes()[at] == b'x') };
    assert_eq!(all("/palinurus.v1.Coordinator/ListBackups"), row("xxxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/StartBackup"), row(".xxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/DeleteBackup"), row("..x....x"));
    assert_eq!(all("/palinurus.v1.Coordinator/PowerOff"), row(".xxx...x"));
    assert_eq!(all("/palinurus.v1.Coordinator/DeleteService"), row("..x....x"));
    assert_eq!(all("/palinurus.v1.Fleet/Session"), row("....x..x"));
    assert_eq!(all("/grpc.health.v1.Health/Check"), row("xxxxxxxx"));
    assert_eq!(all("/palinurus.v1.Coordinator/Unheard"), row("........"));
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
