//! Job files, good and bad, and who wins when several set one key.

use super::file::{JobFile, Problems, Setting};
use super::resolve::Resolver;
use super::shipped::SHIPPED;
use super::spec::{JobSpec, KeyOrder, ListMode, MixPart, Op, WritePath};
use super::{jobs, shipped, spec_summary, summary};

fn override_of(word: &str, value: &str) -> Setting {
    Setting {
        word: word.to_owned(),
        value: value.to_owned(),
        line: None,
    }
}

fn resolve(text: &str, overrides: &[(&str, &str)]) -> Result<Vec<JobSpec>, Problems> {
    let overrides: Vec<Setting> = overrides
        .iter()
        .map(|(word, value)| override_of(word, value))
        .collect();
    let file = JobFile::read("my.fio", text)?;
    let mut resolver = Resolver::new(&overrides);
    let specs = resolver.take(&file, |_| true);
    resolver.finish(specs)
}

fn one(text: &str, overrides: &[(&str, &str)]) -> JobSpec {
    let mut specs = resolve(text, overrides).unwrap();
    assert_eq!(specs.len(), 1);
    specs.remove(0)
}

#[test]
fn a_job_has_a_value_for_every_key() {
    let job = one("[a]\nop=put\n", &[]);
    assert_eq!((job.name.as_str(), job.op), ("a", Op::Put));
    assert_eq!((job.numjobs, job.iodepth, job.connections), (1, 64, 8));
    assert_eq!(
        (job.value_bytes, job.key_bytes, job.key_count),
        (256, 16, 100_000)
    );
    assert_eq!(
        (job.runtime_ms, job.ramp_time_ms, job.size),
        (5_000, 1_000, None)
    );
    assert_eq!(
        (job.rate, job.serializable, job.group_reporting),
        (None, false, true)
    );
    assert!(job.endpoints.is_empty() && job.cpus_allowed.is_empty());
    assert_eq!(
        (job.key_order, job.list_mode),
        (KeyOrder::Rand, ListMode::Paged)
    );
    let text = serde_json::to_string(&job).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), job);
}

#[test]
fn a_spec_is_shown_as_one_would_write_it() {
    let job = one(
        "[a]\nop=list\nkey_count=10k\nvalue_bytes=1k\nnumjobs=2\ninflight=4\n",
        &[],
    );
    let text = spec_summary(&job);
    assert_eq!(
        text,
        "op=list, runtime=5s, ramp_time=1s, numjobs=2, iodepth=2, connections=4, value_bytes=1k, \
         key_bytes=16, key_count=10k, serializable=0, list_mode=paged, page_limit=500, seed=1, \
         group_reporting=1"
    );
    let again = format!("[a]\n{}\n", text.replace(", ", "\n"));
    assert_eq!(one(&again, &[]), job);
}

#[test]
fn later_settings_win() {
    let text = "\
; globals above a section are inherited, those below are not
[global]
op = put
value_bytes = 1k

[first]
  # an indented comment
key_count=10

[global]
value_bytes=2k
group_reporting=0

[second]
group_reporting
iodepth=3
";
    let specs = resolve(text, &[]).unwrap();
    let of = |index: usize| (specs[index].value_bytes, specs[index].key_count);
    assert_eq!((of(0), of(1)), ((1_024, 10), (2_048, 100_000)));
    assert!(
        specs[1].group_reporting,
        "a key alone is a flag that is set"
    );

    let specs = resolve(text, &[("value_bytes", "3"), ("key_count", "7")]).unwrap();
    assert!(
        specs
            .iter()
            .all(|job| (job.value_bytes, job.key_count) == (3, 7))
    );
    let specs = resolve(text, &[("bs", "4k")]).unwrap();
    assert!(
        specs.iter().all(|job| job.value_bytes == 4_096),
        "by its other word too"
    );
    let specs = resolve(text, &[("op", "range"), ("serializable", "1")]).unwrap();
    assert!(
        specs
            .iter()
            .all(|job| job.op == Op::Range && job.serializable)
    );
}

#[test]
fn requests_in_flight_are_shared_by_clones() {
    let text = "[a]\nop=put\nnumjobs=4\niodepth=10\n";
    assert_eq!(one(text, &[]).in_flight(), 40);
    assert_eq!(one(text, &[("inflight", "8")]).iodepth, 2);
    let text = "[a]\nop=put\nnumjobs=4\ninflight=8\n";
    assert_eq!(
        (
            one(text, &[]).iodepth,
            one(text, &[("iodepth", "5")]).iodepth
        ),
        (2, 5)
    );
    let closed = one("[a]\nop=put\niodepth=2\n", &[]);
    assert_eq!(closed.connections, 2, "no more than requests in flight");
    let open = one("[a]\nop=put\niodepth=2\nrate=1k\n", &[]);
    assert_eq!((open.connections, open.rate), (8, Some(1_000)));
    let clones = one("[a]\nop=put\nnumjobs=16\n", &[]);
    assert_eq!(clones.connections, 16, "each clone has one at least");
}

#[test]
fn a_word_means_the_key_of_its_op() {
    let disk = one(
        "[a]\nop=disk\nbs=4k,1m\niodepth=1,8\nsize=1g\ndirect=0\n",
        &[],
    );
    assert_eq!(
        (&disk.disk.block_sizes[..], &disk.disk.depths[..]),
        (&[4_096, 1 << 20][..], &[1, 8][..])
    );
    assert_eq!(
        (disk.size, disk.disk.path),
        (Some(1 << 30), WritePath::Buffered)
    );
    let mixed = one("[a]\nop=mixed\nmix=put:1,list:2\nsize=1m\n", &[]);
    let part = |op, weight| MixPart { op, weight };
    assert_eq!(mixed.mix, [part(Op::Put, 1), part(Op::List, 2)]);
    assert_eq!(
        mixed.size,
        Some(1_000_000),
        "operations are counted in tens"
    );
    let kube = one("[a]\nop=kube-1k-nodes\nnodes=1k\nevent_ttl=2m\n", &[]);
    assert_eq!((kube.kube.nodes, kube.kube.event_ttl_ms), (1_000, 120_000));
}

/// A job file, and all that is told of it.
const BAD_FILES: &[(&str, &str)] = &[
    (
        "",
        "my.fio: holds no job: a job is a [section] with at least op=...",
    ),
    (
        "; only words\n[global]\nop=put\n",
        "my.fio: holds no job: a job is a [section] with at least op=...",
    ),
    (
        "op=put\n",
        "my.fio:1: op stands above the first section: put it under [global]",
    ),
    (
        "[a\nop=put\n",
        "my.fio:1: \"[a\" is no [section]\nmy.fio:2: op stands above the first section: put it under [global]",
    ),
    (
        "[a b]\nop=put",
        "my.fio:1: [a b] is no name of a job: letters, digits, -, _ and . are allowed",
    ),
    (
        "[a]\nop=put\n[b]\nop=put\n[a]\n",
        "my.fio:5: [a] is there already, in line 1",
    ),
    (
        "[a]\nop=put\niodpeth=4",
        "my.fio:3: unknown key iodpeth: did you mean iodepth?",
    ),
    (
        "[a]\nop=put\nxyzzy=4",
        "my.fio:3: unknown key xyzzy: `keelson-bench jobs --keys` lists all",
    ),
    (
        "[a]\nop=put\nrate=1\nrate=2",
        "my.fio:4: rate is set twice in this section",
    ),
    (
        "[a]\nop=put\nvalue_bytes=2m",
        "my.fio:3: value_bytes=2m: allowed is 0 to 1m bytes",
    ),
    (
        "[a]\nop=put\nruntime=soon",
        "my.fio:3: runtime=soon: allowed is 0s to 1day",
    ),
    (
        "[a]\nop=put\nkey_order=random",
        "my.fio:3: key_order=random: allowed is seq, rand",
    ),
    (
        "[a]\nop=put\nserializable=1",
        "my.fio:3: serializable does not apply to op=put, but to range, list, mixed",
    ),
    (
        "[a]\nop=disk\nramp_time=1",
        "my.fio:3: ramp_time does not apply to op=disk, but to all but disk",
    ),
    (
        "[global]\nwatchers=3\n[a]\nop=put",
        "my.fio:2: watchers applies to none of the jobs below it",
    ),
    (
        "[a]\niodepth=1",
        "my.fio:1: [a] has no op: put, txn-update, range, list, delete, watch, watch-latency, lease-keepalive, mixed, kube-node-leases, kube-pod-churn, kube-1k-nodes, disk",
    ),
    (
        "[a]\nop=puts",
        "my.fio:2: op=puts: allowed is put, txn-update, range, list, delete, watch, watch-latency, lease-keepalive, mixed, kube-node-leases, kube-pod-churn, kube-1k-nodes, disk",
    ),
    (
        "[a]\nop=put\nsettle=1",
        "my.fio:1: [a] would count what its ramp wrote: settle=1 wants ramp_time=0",
    ),
    (
        "[a]\nop=put\nruntime=0",
        "my.fio:1: [a] would never end: runtime is 0 and size is not given",
    ),
    (
        "[a]\nop=put\nnumjobs=3\ninflight=4",
        "my.fio:4: inflight=4 is not shared out evenly by numjobs=3: give a multiple of it",
    ),
    (
        "[a]\nop=put\nrate=0\n[b]\nop=mixed\nmix=watch:1",
        "my.fio:3: rate=0: allowed is 1 to 10m\nmy.fio:6: mix=watch:1: allowed is op:weight with commas, of the ops put, txn-update, range, list, delete",
    ),
];

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_is_allowed() {
    for (text, expected) in BAD_FILES {
        let told = resolve(text, &[]).map_err(|problems| problems.to_string());
        assert_eq!(told, Err((*expected).to_owned()), "{text:?}");
    }
}

#[test]
fn overrides_are_judged_too() {
    let text = "[a]\nop=put\n[b]\nop=watch\n";
    let specs = resolve(text, &[("watchers", "5")]).unwrap();
    assert_eq!((specs[0].watchers, specs[1].watchers), (1, 5));
    let told = |word, value| resolve(text, &[(word, value)]).unwrap_err().to_string();
    assert_eq!(
        told("nodes", "5"),
        "command line: --nodes applies to none of the jobs"
    );
    assert_eq!(
        told("rate", "x"),
        "command line: --rate=x: allowed is 1 to 10m"
    );
}

#[test]
fn arguments_name_files_shipped_jobs_and_sections() {
    let names = |argument: &str| {
        let specs = jobs(&[argument.to_owned()], &[]).map_err(|problems| problems.to_string())?;
        Ok(specs.into_iter().map(|job| job.name).collect::<Vec<_>>())
    };
    assert_eq!(
        names("range-list"),
        Ok(vec![
            "range-list".to_owned(),
            "range-list-stream".to_owned()
        ])
    );
    assert_eq!(
        names("range-list:range-list-stream"),
        Ok(vec!["range-list-stream".to_owned()])
    );
    assert_eq!(
        names("range-list:x"),
        Err("range-list.fio: has no [x], but range-list, range-list-stream".to_owned())
    );
    assert_eq!(
        names("no/such.fio"),
        Err("no/such.fio: there is no such file".to_owned())
    );
    let told = names("put-random").unwrap_err();
    assert!(
        told.starts_with("put-random: neither a job file nor one of the shipped jobs: put-seq, "),
        "{told}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.fio");
    std::fs::write(&path, "[x]\nop=put\n[y]\nop=range\n").unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(names(path), Ok(vec!["x".to_owned(), "y".to_owned()]));
    assert_eq!(names(&format!("{path}:y")), Ok(vec!["y".to_owned()]));
}

#[test]
fn the_shipped_jobs_are_what_they_say() {
    for (name, text) in SHIPPED {
        assert!(
            summary(text).ends_with(['.', ':']) || summary(text).contains(' '),
            "{name}"
        );
        let specs =
            jobs(&[(*name).to_owned()], &[]).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(!specs.is_empty(), "{name}");
        for job in &specs {
            assert!(job.name.starts_with(name), "{name} holds {}", job.name);
            assert!(
                job.runtime_ms <= 10_000 && job.ramp_time_ms <= 2_000,
                "{}",
                job.name
            );
        }
    }
    let job = |name: &str| jobs(&[name.to_owned()], &[]).unwrap().remove(0);
    let put = job("put-rand");
    assert_eq!(
        (put.op, put.value_bytes, put.in_flight(), put.connections),
        (Op::Put, 256, 64, 8)
    );
    assert_eq!(job("put-rand-1").in_flight(), 1);
    assert_eq!(
        (job("txn-update").value_bytes, job("txn-update").in_flight()),
        (1_024, 256)
    );
    assert_eq!(job("range-point").in_flight(), 64);
    let list = job("range-list");
    assert_eq!(
        (list.key_count, list.value_bytes, list.in_flight()),
        (10_000, 1_024, 4)
    );
    assert_eq!(job("watch-fanout").watchers, 1_000);
    assert_eq!(job("lease-keepalive").in_flight(), 256);
    assert_eq!(shipped("get-rand"), None);
}
