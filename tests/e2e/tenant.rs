//! Who looks at one service of two, by certificate and by token.
use std::fs;
use std::os::unix::fs::PermissionsExt;

use palinurus_identity::Issued;
use palinurus_proto::FILE_DESCRIPTOR_SET;
use palinurus_proto::v1;
use palinurus_tests::process::palinurus;
use palinurus_tests::world::{FORK, Ran, SERVICE, World, run};
use prost::Message;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// What tells nothing of any service.
const FREE: [&str; 2] = ["ListPlans", "GetCluster"];

async fn run_as(world: &World, proof: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = palinurus();
    command.args(["--json", "--server", &world.server(), "--ca"]).arg(world.certs.as_ref().unwrap().ca());
    command.envs(proof.iter().copied()).args(arguments);
    run(command).await
}

/// Any call whose request has a text as its first field.
async fn ask(channel: &Channel, rpc: &str, text: &str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path: PathAndQuery = format!("/palinurus.v1.Coordinator/{rpc}").parse().unwrap();
    let request = Request::new(v1::GetServiceRequest { service: text.to_owned() });
    let codec = ProstCodec::<v1::GetServiceRequest, ()>::default();
    client.unary(request, path, codec).await.map(drop)
}

fn rpcs() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let ours = services.filter(|service| service.name() == "Coordinator");
    ours.flat_map(|service| service.method.iter().map(|rpc| rpc.name().to_owned())).collect()
}

fn names<'a>(shown: &'a Value, list: &str, name: &str) -> Vec<&'a str> {
    shown[list].as_array().unwrap().iter().map(|each| each[name].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_service_and_learns_of_no_other() {
    let mut world = World::encrypted(&["n1", "n2"]);
    world.forks = vec!["n2"];
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("file"), "data").unwrap();
    }
    let tokens = world.path("tokens");
    let tokens = tokens.to_str().unwrap();
    let generate = ["tokens", "generate", "--name", "mallory", "--role", "tenant", "--file", tokens];
    world.run(&generate).await.expect(2);
    let generate = [&generate[..], &["--service", SERVICE]].concat();
    let token = world.run(&generate).await.expect(0).json()["token"].as_str().unwrap().to_owned();
    world.settings = format!("tokens = {tokens:?}\n");
    world.start().await;
    let mut operations = Vec::new();
    for service in [SERVICE, FORK] {
        let request = v1::StartBackupRequest { service: service.into(), full: false };
        let started = world.client().await.start_backup(request).await.unwrap().into_inner();
        assert_eq!(world.ended(&started.id).await.state(), v1::OperationState::Succeeded);
        operations.push(started.id);
    }
    let certs = world.path("certs");
    let issue = ["certs", "issue", certs.to_str().unwrap(), "tenant", "--name", "eve", "--service", SERVICE];
    let made = world.run(&issue).await.expect(0).json();
    assert_eq!(made["who"], format!("palinurus://tenant/eve?service={SERVICE}"));
    let Issued { certificate, key } = world.certs.as_ref().unwrap().path("tenant-eve");

    let by_certificate =
        [("PALINURUS_CERT", certificate.to_str().unwrap()), ("PALINURUS_CERT_KEY", key.to_str().unwrap())];
    let file = world.path("token");
    fs::write(&file, &token).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let by_token = [("PALINURUS_TOKEN_FILE", file.to_str().unwrap())];
    for proof in [&by_certificate[..], &by_token[..]] {
        let shown = async |arguments: &[&str]| run_as(&world, proof, arguments).await.expect(0).json();
        assert_eq!(names(&shown(&["service", "list"]).await, "services", "name"), [SERVICE]);
        assert_eq!(names(&shown(&["node", "list"]).await, "nodes", "name"), ["n1"]);
        assert_eq!(names(&shown(&["backup", "list"]).await, "backups", "service"), [SERVICE]);
        assert_eq!(names(&shown(&["operation", "list"]).await, "operations", "id"), [&operations[0]]);
        shown(&["service", "show", SERVICE]).await;
        shown(&["operation", "show", &operations[0][..8]]).await;
        shown(&["logs", "show", SERVICE]).await;
        shown(&["plan", "list"]).await;
        let refusals = [
            vec!["backup", "start", "--service", SERVICE],
            vec!["backup", "delete", "latest", "--service", SERVICE, "--yes"],
            vec!["restore", "plan", "--service", SERVICE],
            vec!["service", "show", FORK],
            vec!["operation", "show", &operations[1]],
        ];
        for arguments in refusals {
            let refused = run_as(&world, proof, &arguments).await;
            assert_eq!(refused.code, 7, "{arguments:?}: {}", refused.stderr);
        }
    }

    // Every call there is, also one that was made since this test.
    let eve = world.certs.as_ref().unwrap().path("tenant-eve");
    let dialer = world.certs.as_ref().unwrap().dialer(&eve);
    let channel = dialer.connect(&world.server().parse().unwrap(), |endpoint| endpoint).await.unwrap();
    for rpc in rpcs().iter().filter(|rpc| !FREE.contains(&rpc.as_str())) {
        for (there, nowhere) in [(FORK, "nowhere"), (&operations[1], "ffffffffffffffff")] {
            let refused = [there, nowhere].map(|text| (text.to_owned(), rpc.clone()));
            let mut said = Vec::new();
            for (text, rpc) in refused {
                let status = ask(&channel, &rpc, &text).await.expect_err(&rpc);
                assert_eq!(status.code(), Code::PermissionDenied, "{rpc} {text}: {status:?}");
                said.push((status.message().to_owned(), status.details().to_vec()));
            }
            assert_eq!(said[0], said[1], "{rpc} tells whether {there} is there");
        }
    }
    world.stop().await;
}
