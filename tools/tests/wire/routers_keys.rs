//! Routers and keys: scopes, and prefixes for the name and both ends (A-6, A-10, R-26).

use crate::harness::{Answer, Server, request_as};
use crate::routers::body;
use serde_json::{Value, json};

#[test]
fn a_restricted_key_sees_and_changes_its_own_routers_only() {
    let server = Server::start(&[("RUNELOG_API_KEYS", "root, team::team-, r:r:team-, w:w, a:a")]);
    let mut client = server.connect();
    let mut ask = |key: &str, method: &str, target: &str, body: &str| -> Answer {
        client.send(request_as(key, method, target, body));
        let answer = client.answer();
        answer.check(target);
        answer
    };
    let forbidden = |answer: &Answer, what: &str| {
        assert_eq!((answer.status, &answer.member("error")["code"]), (403, &json!("forbidden")), "{what}");
    };
    for (router, source, dest) in [
        ("team-1", "team-a", "team-b"),
        ("team-2", "team-a", "other-b"),
        ("team-3", "other-a", "team-c"),
        ("other-1", "team-a", "team-d"),
        ("team-4", "team-a", "team-e"),
    ] {
        let answer = ask("root", "PUT", &format!("/v0/routers/{router}"), &body(source, dest, ""));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    // R-26: name, source and dest; pages count what is shown only (TL-4).
    for key in ["team", "r"] {
        let list = ask(key, "GET", "/v0/routers", "").json();
        let shown: Vec<_> = list["routers"].as_array().expect("R-25").iter().map(|r| &r["router"]).collect();
        assert_eq!(shown, ["team-1", "team-4"], "R-26 {key}");
        let page = ask(key, "GET", "/v0/routers?page_size=1", "").json();
        assert_eq!(
            (&page["routers"][0]["router"], page["routers"].as_array().map(Vec::len)),
            (&json!("team-1"), Some(1))
        );
        let cursor = page["next_cursor"].as_str().expect("G-2");
        let page = ask(key, "GET", &format!("/v0/routers?page_size=1&cursor={cursor}"), "").json();
        assert_eq!(
            (&page["routers"][0]["router"], page.get("next_cursor")),
            (&json!("team-4"), None),
            "R-26 G-2"
        );
    }
    // A-10: one router, by its name or by either end.
    for router in ["team-2", "team-3", "other-1"] {
        for method in ["GET", "DELETE"] {
            forbidden(
                &ask("team", method, &format!("/v0/routers/{router}"), ""),
                &format!("A-10 {method} {router}"),
            );
        }
        assert_eq!(ask("root", "GET", &format!("/v0/routers/{router}"), "").status, 200, "A-10 {router}");
    }
    assert_eq!(ask("team", "GET", "/v0/routers/team-1", "").status, 200, "A-10");
    assert_eq!(ask("team", "GET", "/v0/routers/team-9", "").status, 404, "R-20");
    assert_eq!(ask("team", "DELETE", "/v0/routers/team-9", "").member("deleted"), false, "R-21");
    forbidden(&ask("team", "GET", "/v0/routers/other-9", ""), "A-10");
    // §7.1: JSON, then the prefix, then everything else; nothing is made (R-5).
    let none = Value::Null;
    ask("team", "PUT", "/v0/routers/team-5", "{").assert_fault(400, "invalid_request", &none, "§7.1 JSON");
    let long = format!("team-{}", "x".repeat(256));
    for router in ["team-5", long.as_str()] {
        for (source, dest, named) in [
            ("other-x", "team-x", "other-x"),
            ("team-x", "other-x", "other-x"),
            ("x", "x", "x"),
            ("-", "team-x", "-"),
        ] {
            let answer = ask("team", "PUT", &format!("/v0/routers/{router}"), &body(source, dest, ""));
            answer.assert_fault(403, "forbidden", &json!({ "topic": named }), "A-10 §7.1");
        }
        assert_ne!(ask("root", "GET", &format!("/v0/routers/{router}"), "").status, 200, "R-5");
    }
    for topic in ["team-x", "other-x"] {
        assert_eq!(ask("root", "GET", &format!("/v0/topics/{topic}"), "").status, 404, "R-5 {topic}");
    }
    forbidden(&ask("team", "PUT", "/v0/routers/other-5", "{"), "B-1: the path comes before the body");
    // A-6: PUT needs admin, GET and the list read, DELETE delete.
    let text = body("team-x", "team-y", "");
    for (key, method, target) in [
        ("r", "PUT", "/v0/routers/team-6"),
        ("w", "PUT", "/v0/routers/team-6"),
        ("w", "GET", "/v0/routers/team-1"),
        ("a", "GET", "/v0/routers"),
        ("r", "DELETE", "/v0/routers/team-1"),
        ("a", "DELETE", "/v0/routers/team-1"),
    ] {
        forbidden(&ask(key, method, target, &text), &format!("A-6 {key} {method} {target}"));
    }
    assert_eq!(ask("a", "PUT", "/v0/routers/team-6", &text).status, 201, "A-6");
    assert_eq!(ask("team", "DELETE", "/v0/routers/team-6", "").member("deleted"), true, "A-6");
}
