//! Who a member is, by its flags, its directory, and the cluster that it joins.

use super::*;
use crate::cli::{Invocation, parse};

fn config(data_dir: &std::path::Path, arguments: &[&str]) -> Config {
    let mut words: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    words.push(format!("--data-dir={}", data_dir.display()));
    match parse(&words, &[], |path| Err(format!("no file {path}"))) {
        Ok(Invocation::Serve(serve)) => serve.config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

const THREE: &[&str] = &[
    "--name=n2",
    "--initial-cluster=n1=http://127.0.0.1:4180,n2=http://127.0.0.1:4280,n3=http://127.0.0.1:4380",
    "--initial-advertise-peer-urls=http://127.0.0.1:4280",
    "--initial-cluster-token=three",
];

fn nobody(_: &[String], _: Duration) -> anyhow::Result<Running> {
    bail!("nobody answers")
}

fn member(id: u64, port: u16, is_started: bool) -> Member {
    let names = if is_started { "m" } else { "" };
    Member {
        id,
        name: names.to_owned(),
        peer_urls: vec![format!("http://127.0.0.1:{port}")],
        client_urls: vec![names.to_owned(); usize::from(is_started)],
        is_learner: false,
    }
}

fn refusal(config: &Config, running: &Running) -> String {
    let fetch = |_: &[String], _: Duration| Ok(running.clone());
    let error = Identity::determine(config, fetch).expect_err("it is refused");
    assert!(
        !config.data_dir.join("FORMAT").exists(),
        "a refused start leaves nothing behind"
    );
    format!("{error:#}")
}

/// The ids are those of etcd 3.5.1 under the same flags.
#[test]
fn flags_found_a_cluster_of_three() {
    let scratch = tempfile::tempdir().expect("a directory");
    let identity = Identity::determine(&config(scratch.path(), THREE), nobody);
    let identity = identity.expect("nobody has to answer yet");
    assert_eq!(identity.member, MemberId(18_056_597_031_651_119_961));
    assert_eq!(identity.cluster, ClusterId(5_020_265_899_664_547_647));
    let founding: Vec<_> = identity
        .founding
        .iter()
        .map(|member| (member.name.as_str(), member.id, member.client_urls.len()))
        .collect();
    let expected = [
        ("n1", 463_569_201_414_696_438, 0),
        ("n2", 18_056_597_031_651_119_961, 0),
        ("n3", 9_068_708_677_163_647_514, 0),
    ];
    assert_eq!(founding, expected);
    assert_eq!(identity.me.client_urls, ["http://localhost:2379"]);
    assert!(identity.peers.is_empty());
}

#[test]
fn a_directory_keeps_its_member_whatever_the_flags_say() {
    let scratch = tempfile::tempdir().expect("a directory");
    let first = Identity::determine(&config(scratch.path(), THREE), nobody);
    let first = first.expect("nobody has to answer yet");
    let dir = DataDir::open(scratch.path()).expect("a new directory");
    let settled = first.clone().settle(&dir).expect("it is written down");
    assert_eq!(settled, first);
    // The same flags again: the cluster may still have to be founded.
    let again = Identity::determine(&config(scratch.path(), THREE), nobody);
    let again = again.expect("as before").settle(&dir).expect("known");
    assert_eq!(again, first);
    // Others: it is who it was, and founds nothing.
    let lane = dir
        .lane_path(keelson_storage::ids::LaneId(0))
        .expect("a lane");
    std::fs::write(lane.join("a"), b"").expect("a file");
    let other = Identity::determine(&config(scratch.path(), &["--name=x"]), nobody);
    let other = other.expect("no flag matters").settle(&dir).expect("known");
    assert_eq!((other.member, other.cluster), (first.member, first.cluster));
    assert_eq!(other.me.id, first.member.0);
    assert!(other.founding.is_empty());
    assert!(other.is_certain);
}

#[test]
fn a_member_joins_as_the_one_that_was_added_for_it() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut arguments = THREE.to_vec();
    arguments.push("--initial-cluster-state=existing");
    let config = config(scratch.path(), &arguments);
    let mut running = Running {
        cluster: ClusterId(7),
        members: vec![
            member(1, 4180, true),
            member(2, 4280, false),
            member(3, 4380, true),
        ],
    };
    running.members[1].is_learner = true;
    let fetch = |urls: &[String], _: Duration| {
        assert_eq!(urls, ["http://127.0.0.1:4180", "http://127.0.0.1:4380"]);
        Ok(running.clone())
    };
    let identity = Identity::determine(&config, fetch).expect("it was added");
    assert_eq!(
        (identity.member, identity.cluster),
        (MemberId(2), ClusterId(7))
    );
    assert_eq!((identity.me.id, identity.me.name.as_str()), (2, "n2"));
    assert!(identity.me.is_learner);
    assert!(identity.founding.is_empty());
    assert_eq!(identity.peers, running.members);
}

#[test]
fn a_member_that_cannot_join_is_told_why() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data_dir = scratch.path().join("d");
    let mut arguments = THREE.to_vec();
    arguments.push("--initial-cluster-state=existing");
    let joining = config(&data_dir, &arguments);
    let mut running = Running {
        cluster: ClusterId(7),
        members: vec![member(1, 4180, true), member(2, 4280, false)],
    };
    let text = refusal(&joining, &running);
    assert!(
        text.contains("names 3 members, but the running cluster has 2"),
        "{text}"
    );
    running.members.push(member(3, 9, true));
    let text = refusal(&joining, &running);
    assert!(
        text.contains("no member with the peer URLs http://127.0.0.1:4380"),
        "{text}"
    );
    running.members[2] = member(3, 4380, true);
    running.members[1] = member(2, 4280, true);
    let text = refusal(&joining, &running);
    assert!(text.contains("n2 has already been bootstrapped"), "{text}");

    let error = Identity::determine(&joining, nobody).expect_err("nobody answers");
    let text = format!("{error:#}");
    assert!(
        text.contains("says who belongs to it: nobody answers"),
        "{text}"
    );
    let alone = config(&data_dir, &["--initial-cluster-state=existing"]);
    let error = Identity::determine(&alone, nobody).expect_err("there is nobody");
    assert!(
        error.to_string().contains("there is no member in"),
        "{error}"
    );
}

/// It voted and acknowledged under its id, and has forgotten it.
#[test]
fn a_member_with_an_empty_directory_does_not_come_back_as_new() {
    let scratch = tempfile::tempdir().expect("a directory");
    let config = config(&scratch.path().join("d"), THREE);
    let mut running = Running {
        cluster: ClusterId(5_020_265_899_664_547_647),
        members: vec![member(18_056_597_031_651_119_961, 4280, true)],
    };
    let text = refusal(&config, &running);
    assert!(text.contains("n2 has already been bootstrapped"), "{text}");
    running.members[0].client_urls.clear();
    let fetch = |_: &[String], _: Duration| Ok(running.clone());
    Identity::determine(&config, fetch).expect("it never started");
}
