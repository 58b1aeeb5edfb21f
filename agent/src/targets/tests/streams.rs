//! The ends of streams (rule 12 among them), how many there may be, and their failures.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use underpass_agent_policy::Policy;
use underpass_dial::testing::SilentAddress;
use underpass_tunnel::{ResetCode, StreamError, limits};

use super::world::*;

#[tokio::test]
async fn half_close_passes_in_both_directions() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let serving = async {
        let mut tcp = listener.accept().await.unwrap().0;
        let mut asked = String::new();
        tcp.read_to_string(&mut asked).await.unwrap();
        // The peer's half has ended, and this one goes on.
        tcp.write_all(asked.repeat(3).as_bytes()).await.unwrap();
    };
    let asking = async {
        let mut stream = world.open(&target).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = within(async { tokio::join!(serving, asking) }).await;
    assert_eq!(answer, "abcabcabc");
}

/// The server tells its client of the connection before it sends anything, so that an answer that waits for bytes delays each one.
#[tokio::test]
async fn a_stream_is_answered_as_soon_as_its_target_is_reached() {
    let prompt = async {
        loop {
            let (_listener, target) = listener().await;
            // Of a new session: nothing else takes the answer along.
            let world = World::new(OWN).await;
            let asked = Instant::now();
            let _stream = world.open(&target).await.unwrap();
            // On a busy machine it is not so each time.
            if asked.elapsed() < limits::ACK_DELAY {
                break;
            }
        }
    };
    within(prompt).await;
}

#[tokio::test]
async fn a_stream_that_breaks_does_not_end_cleanly_at_its_target() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (mut tcp, mut stream) = joined(&world, &listener, &target).await;
    stream.write_all(b"half of it").await.unwrap();
    stream.flush().await.unwrap();
    let mut read = [0; 10];
    within(tcp.read_exact(&mut read)).await.unwrap();
    drop(stream);
    let error = within(tcp.read(&mut read)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_breaks_resets_its_stream() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (tcp, mut stream) = joined(&world, &listener, &target).await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::TargetFailed))),
        "{read:?}"
    );
}

#[tokio::test]
async fn rule_12_a_stream_ends_with_its_permission() {
    let (listener, target) = listener().await;
    let policy =
        "tcp: [{name: own, addresses: [127.0.0.0/8]}, {name: more, addresses: [10.0.0.1]}]";
    let world = World::new(policy).await;
    let (mut tcp, mut stream) = joined(&world, &listener, &target).await;
    // One that still allows it ends nothing, under any name of a rule.
    world
        .policies
        .enforce(Policy::from_yaml("tcp: [{name: x, addresses: [127.0.0.1]}]").unwrap());
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    within(tcp.read_exact(&mut [0; 1])).await.unwrap();
    world.policies.enforce(Policy::default());
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
    within(tcp.read(&mut [0; 1])).await.unwrap_err();
}

#[tokio::test]
async fn rule_12_a_stream_ends_with_its_identity() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (_tcp, mut stream) = joined(&world, &listener, &target).await;
    let denied = format!("{OWN}\nimpersonation: {{deniedUsers: [alice]}}");
    world.policies.enforce(Policy::from_yaml(&denied).unwrap());
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
}

#[tokio::test]
async fn rule_12_a_call_of_the_api_ends_with_its_identity() {
    let (listener, target) = listener().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, "{}").unwrap();
    let differs = Differs {
        api_server: target.replace("tcp:", "http://"),
        file: Some(file),
        ..Differs::default()
    };
    let world = World::differing("{}", differs).await;
    let asking = async {
        let mut stream = world.open("kube-api").await.unwrap();
        let request = b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    // The API server has the request, and never answers.
    let (accepted, mut stream) = within(async { tokio::join!(listener.accept(), asking) }).await;
    let mut tcp = BufReader::new(accepted.unwrap().0);
    let mut line = String::new();
    within(tcp.read_line(&mut line)).await.unwrap();
    let denied = "impersonation: {deniedUsers: [alice]}";
    world.policies.enforce(Policy::from_yaml(denied).unwrap());
    within(stream.read_bytes()).await.unwrap_err();
}

#[tokio::test]
async fn each_failure_has_a_sentence_of_its_own() {
    let silent = SilentAddress::new().await.unwrap();
    let policy = format!("{OWN}\nunix: [{{name: u, paths: [/nonexistent/x.sock]}}]");
    let world = World::new(&policy).await;
    let refusing = format!("tcp:{}", closed().await);
    let silent = format!("tcp:{}", silent.address());
    let (refusing, silent, missing) = tokio::join!(
        world.refused(&refusing),
        world.refused(&silent),
        world.refused("unix:/nonexistent/x.sock"),
    );
    for ((code, reason), says) in [
        (refusing, "refuses connections"),
        (silent, "did not answer within 2 s"),
        (missing, "there is no such socket"),
    ] {
        assert_eq!(code, ResetCode::TargetUnreachable);
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn rule_19_streams_to_targets_are_bounded() {
    let (listener, target) = listener().await;
    let differs = Differs {
        // Two places.
        open_files: Some(4),
        ..Differs::default()
    };
    let world = World::differing(OWN, differs).await;
    let (_first_tcp, first) = joined(&world, &listener, &target).await;
    let _second = joined(&world, &listener, &target).await;
    let (code, reason) = world.refused(&target).await;
    assert_eq!(code, ResetCode::Overloaded);
    assert!(reason.contains("2 streams"), "{reason}");
    drop(first);
    let again = async {
        loop {
            match world.open(&target).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    within(again).await;
}

#[tokio::test]
async fn rule_19_a_thousand_streams_that_come_and_go_leave_no_task() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let one = joined(&world, &listener, &target).await;
    let with_one = tasks();
    drop(one);
    for number in 0..1000 {
        let (tcp, mut stream) = joined(&world, &listener, &target).await;
        match number % 3 {
            0 => drop(stream),
            1 => drop(tcp),
            _ => {
                drop(tcp);
                stream.shutdown().await.unwrap();
            }
        }
    }
    within(async {
        while tasks() >= with_one {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// On a thread of its own: a recorder for one thread hears nothing of other tests.
#[tokio::test]
async fn streams_to_targets_are_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (mut tcp, mut stream) = joined(&world, &listener, &target).await;
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    within(tcp.read_to_string(&mut heard)).await.unwrap();
    tcp.write_all(b"an answer").await.unwrap();
    drop(tcp);
    within(stream.read_to_string(&mut heard)).await.unwrap();
    world.refused("tcp:10.0.0.1:80").await;
    let expected = [
        r#"underpass_agent_target_streams_total{kind="tcp"} 1"#.to_owned(),
        r#"underpass_agent_target_bytes_total{kind="tcp",direction="up"} 8"#.to_owned(),
        r#"underpass_agent_target_bytes_total{kind="tcp",direction="down"} 9"#.to_owned(),
        format!(
            r#"underpass_agent_target_refusals_total{{kind="tcp",code="{}"}} 1"#,
            ResetCode::Forbidden
        ),
    ];
    within(async {
        while !expected.iter().all(|line| metrics.render().contains(line)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
