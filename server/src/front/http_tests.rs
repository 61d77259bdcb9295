//! What etcd answers, as a table.

use super::*;
use crate::observe::CoreMetrics;

fn request(target: &str) -> HttpRequest<'_> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    HttpRequest {
        listener: Listener::Client,
        method: "GET",
        path,
        query,
    }
}

fn asked(target: &str, facts: &HttpFacts<'_>) -> HttpAnswer {
    answer(&request(target), facts, || "metrics page".to_owned())
}

/// The headers but for the three that every answer on a client URL has.
fn own_headers(answer: &HttpAnswer) -> Vec<(&'static str, &'static str)> {
    for header in ANY_ORIGIN {
        assert!(answer.headers.contains(&header), "{header:?}");
    }
    let headers = answer.headers.iter().copied();
    headers
        .filter(|header| !ANY_ORIGIN.contains(header))
        .collect()
}

/// Something is wrong, and what.
fn ill(change: impl FnOnce(&mut HttpFacts<'static>)) -> HttpFacts<'static> {
    let mut facts = HttpFacts::healthy();
    change(&mut facts);
    facts
}

#[test]
fn health_reports_alarms_then_leader_then_read() {
    let well = HttpFacts::healthy();
    let nospace = ill(|f| f.alarms = &[HealthAlarm::NoSpace]);
    let both = ill(|f| f.alarms = &[HealthAlarm::NoSpace, HealthAlarm::Corrupt]);
    let other = ill(|f| f.alarms = &[HealthAlarm::Other]);
    let headless = ill(|f| f.has_leader = false);
    let unread = ill(|f| f.linearizable = Err("etcdserver: request timed out".into()));
    let blind = ill(|f| f.serializable = Err("gone".into()));
    for (target, facts, reason) in [
        ("/health", &well, ""),
        ("/health", &nospace, "ALARM NOSPACE"),
        ("/health?exclude=NOSPACE", &nospace, ""),
        ("/health?exclude=CORRUPT", &nospace, "ALARM NOSPACE"),
        ("/health?exclude=NOSPACE", &both, "ALARM CORRUPT"),
        ("/health?exclude=NOSPACE&exclude=CORRUPT", &both, ""),
        ("/health?exclude=", &other, "ALARM UNKNOWN"),
        ("/health", &headless, "RAFT NO LEADER"),
        ("/health?serializable=true", &headless, ""),
        ("/health?serializable=1", &headless, "RAFT NO LEADER"),
        (
            "/health",
            &unread,
            "RANGE ERROR:etcdserver: request timed out",
        ),
        ("/health?serializable=true", &unread, ""),
        ("/health?serializable=true", &blind, "RANGE ERROR:gone"),
        ("/health", &blind, ""),
    ] {
        let got = asked(target, facts);
        if reason.is_empty() {
            assert_eq!(got.status, 200, "{target}");
            assert_eq!(got.body, r#"{"health":"true","reason":""}"#, "{target}");
            assert_eq!(
                own_headers(&got),
                [("content-type", "text/plain; charset=utf-8")]
            );
        } else {
            assert_eq!(got.status, 503, "{target}");
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            assert_eq!(got.body, body, "{target}");
            assert!(got.headers.contains(&("x-content-type-options", "nosniff")));
        }
    }
}

#[test]
fn livez_and_readyz_run_their_checks() {
    let well = HttpFacts::healthy();
    let corrupt = ill(|f| f.alarms = &[HealthAlarm::NoSpace, HealthAlarm::Corrupt]);
    let nospace = ill(|f| f.alarms = &[HealthAlarm::NoSpace]);
    let learner = ill(|f| f.is_learner = true);
    let unread = ill(|f| f.linearizable = Err("etcdserver: no leader".into()));
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
               [+]non_learner ok\nok\n";
    for (target, facts, status, body) in [
        ("/livez", &well, 200, "ok\n"),
        (
            "/livez?verbose",
            &well,
            200,
            "[+]serializable_read ok\nok\n",
        ),
        ("/livez", &unread, 200, "ok\n"),
        (
            "/livez/serializable_read?verbose=1",
            &well,
            200,
            "[+]serializable_read ok\nok\n",
        ),
        (
            "/livez/linearizable_read",
            &well,
            404,
            "404 page not found\n",
        ),
        ("/readyz", &well, 200, "ok\n"),
        ("/readyz?verbose", &well, 200, all),
        ("/readyz", &nospace, 200, "ok\n"),
        (
            "/readyz?exclude=data_corruption&exclude=none&verbose",
            &corrupt,
            200,
            "[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
        ),
        (
            "/readyz",
            &corrupt,
            503,
            "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
             [+]linearizable_read ok\n[+]non_learner ok\n\n",
        ),
        (
            "/readyz/data_corruption",
            &corrupt,
            503,
            "[-]data_corruption failed: alarm activated: CORRUPT\n\n",
        ),
        (
            "/readyz/non_learner",
            &learner,
            503,
            "[-]non_learner failed: not supported for learner\n\n",
        ),
        (
            "/readyz/linearizable_read",
            &unread,
            503,
            "[-]linearizable_read failed: etcdserver: no leader\n\n",
        ),
        ("/readyz/", &well, 404, "404 page not found\n"),
        ("/readyzz", &well, 404, "404 page not found\n"),
    ] {
        let got = asked(target, facts);
        assert_eq!((got.status, got.body.as_str()), (status, body), "{target}");
        let sniff = ("x-content-type-options", "nosniff");
        assert_eq!(
            own_headers(&got),
            [("content-type", "text/plain; charset=utf-8"), sniff]
        );
    }
}

#[test]
fn version_and_metrics_follow_the_listener() {
    let well = HttpFacts::healthy();
    let got = asked("/version", &well);
    assert_eq!(
        got.body,
        r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#
    );
    assert_eq!(own_headers(&got), [("content-type", "application/json")]);
    let got = asked("/metrics", &well);
    assert_eq!((got.status, got.body.as_str()), (200, "metrics page"));
    assert_eq!(
        own_headers(&got),
        [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
    );
    for (path, status) in [
        ("/version", 404),
        ("/metrics", 200),
        ("/health", 200),
        ("/", 404),
    ] {
        let request = HttpRequest {
            listener: Listener::Metrics,
            ..request(path)
        };
        assert_eq!(
            answer(&request, &well, String::new).status,
            status,
            "{path}"
        );
    }
}

#[test]
fn only_get_is_answered() {
    for (path, status) in [
        ("/health", 405),
        ("/livez", 405),
        ("/readyz/non_learner", 405),
        ("/version", 405),
        ("/metrics", 200),
        ("/nothing", 404),
    ] {
        for method in ["POST", "HEAD", "PUT"] {
            let request = HttpRequest {
                method,
                ..request(path)
            };
            let got = answer(&request, &HttpFacts::healthy(), String::new);
            assert_eq!(got.status, status, "{method} {path}");
            assert_eq!(
                got.headers.contains(&("allow", "GET")),
                status == 405,
                "{method} {path}"
            );
            assert_eq!(needs(&request), Needs::default(), "{method} {path}");
        }
    }
}

#[test]
fn a_browser_may_ask_what_is_allowed() {
    for path in ["/health", "/v3/kv/range"] {
        let request = HttpRequest {
            method: "OPTIONS",
            ..request(path)
        };
        let got = answer(&request, &HttpFacts::healthy(), String::new);
        assert_eq!((got.status, got.body.as_str()), (200, ""), "{path}");
        own_headers(&got);
    }
}

#[test]
fn reads_are_asked_for_only_where_the_answer_depends_on_them() {
    for (target, serializable, linearizable) in [
        ("/health", false, true),
        ("/health?serializable=true", true, false),
        ("/livez", true, false),
        ("/livez?exclude=serializable_read", false, false),
        ("/readyz", true, true),
        ("/readyz?exclude=linearizable_read", true, false),
        ("/readyz/linearizable_read", false, true),
        ("/readyz/non_learner", false, false),
        ("/version", false, false),
        ("/metrics", false, false),
        ("/nothing", false, false),
    ] {
        assert_eq!(
            needs(&request(target)),
            Needs {
                serializable,
                linearizable
            },
            "{target}"
        );
    }
}

#[test]
fn verdicts_are_counted() {
    let metrics = CoreMetrics::new(0);
    let learner = ill(|f| f.is_learner = true);
    asked("/health", &HttpFacts::healthy())
        .verdict
        .record(&metrics, 1);
    asked("/health", &ill(|f| f.has_leader = false))
        .verdict
        .record(&metrics, 2);
    asked("/readyz", &learner).verdict.record(&metrics, 3);
    asked("/version", &learner).verdict.record(&metrics, 4);
    assert_eq!(metrics.health.success.value(), 1);
    assert_eq!(metrics.health.failures.value(), 1);
    let readyz = &metrics.health.checks[CheckKind::Readyz as usize];
    assert_eq!(readyz[NON_LEARNER][0].value(), 1);
    assert_eq!(readyz[LINEARIZABLE_READ][1].value(), 1);
    assert_eq!(
        metrics.health.checks[CheckKind::Livez as usize][SERIALIZABLE_READ][1].value(),
        0
    );
}

#[test]
fn queries_are_decoded_as_go_decodes_them() {
    let pairs: Vec<_> = query_pairs("a=b+c&d=%4e%6F&e&f=%zz&g=1;h=2&&=x").collect();
    let expected = [("a", "b c"), ("d", "No"), ("e", ""), ("", "x")];
    assert_eq!(
        pairs,
        expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
}
