//! What a router is: creation, refusals and their order, cycles, listing, deletion (§7.1 to §7.3).
//!
//! Tables run over source and destination on every pair of the two cores.

use crate::harness::{Answer, Client, Server, pairs, request};
use serde_json::{Value, json};

/// The body of a PUT: `more` is further members.
pub(crate) fn body(source: &str, dest: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"source":"{source}","dest":"{dest}"{comma}{more}}}"#)
}

impl Client {
    pub(crate) fn put_router(&mut self, router: &str, body: &str) -> Answer {
        self.call("PUT", &format!("/v0/routers/{router}"), body)
    }

    pub(crate) fn router(&mut self, router: &str) -> Answer {
        self.get(&format!("/v0/routers/{router}"))
    }

    pub(crate) fn drop_router(&mut self, router: &str) -> Answer {
        self.call("DELETE", &format!("/v0/routers/{router}"), "")
    }

    /// A router that was not there, between topics without records.
    pub(crate) fn link(&mut self, router: &str, [source, dest]: [&str; 2], more: &str) {
        let answer = self.put_router(router, &body(source, dest, more));
        assert_eq!(answer.status, 201, "{router}: {}", answer.text());
    }
}

/// What PUT answers, for options that differ from the defaults as `changed` says.
fn shown(router: &str, [source, dest]: &[String; 2], changed: &Value) -> Value {
    let mut shown = json!({
        "router": router, "source": source, "dest": dest, "preserve_node": true, "preserve_tag": true,
        "filter": null, "allow_cycle": false, "guarantee": "at_least_once",
    });
    for (member, value) in changed.as_object().expect("an object") {
        shown[member] = value.clone();
    }
    shown
}

#[test]
fn a_router_is_created_replaced_and_shown() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, pair) in pairs(server, "shape").iter().enumerate() {
        let (router, [source, dest]) = (format!("shape-{number}"), pair);
        let table = [
            // rule, options, what differs from the defaults
            ("R-1", "", json!({})),
            ("R-2", r#""preserve_node":false"#, json!({"preserve_node": false})),
            ("R-2", r#""preserve_tag":false"#, json!({"preserve_tag": false})),
            ("R-1 create_dest", r#""create_dest":false"#, json!({})),
            ("R-1 Eq", r#""filter":["tag","Eq","a*"]"#, json!({"filter": ["tag", "Eq", "a*"]})),
            ("R-1 Glob", r#""filter":["tag","Glob","a*"]"#, json!({"filter": ["tag", "Glob", "a*"]})),
            ("R-1 short", r#""filter":"sale:7""#, json!({"filter": ["tag", "Eq", "sale:7"]})),
            ("R-1 short", r#""filter":"sale:*""#, json!({"filter": ["tag", "Glob", "sale:*"]})),
            ("R-1 short", r#""filter":"""#, json!({"filter": ["tag", "Eq", ""]})),
            ("J-6", r#""filter":null"#, json!({})),
            ("R-1", r#""guarantee":"exactly_once""#, json!({"guarantee": "exactly_once"})),
            ("R-1", r#""allow_cycle":true"#, json!({"allow_cycle": true})),
            ("J-3", r#""ttl_ms":"x","hops":3"#, json!({})),
        ];
        for (row, (rule, options, changed)) in table.iter().enumerate() {
            let created = row == 0;
            let answer = client.put_router(&router, &body(source, dest, options));
            assert_eq!(answer.status, if created { 201 } else { 200 }, "R-1 {rule}: {}", answer.text());
            let mut expected = shown(&router, pair, changed);
            expected["created"] = created.into();
            assert_eq!(answer.steady(), expected, "R-1 R-2 {rule} {options}");
            let mut expected = shown(&router, pair, changed);
            expected["forwarded_total"] = 0.into();
            assert_eq!(client.router(&router).steady(), expected, "R-20 {rule} {options}");
        }
        // R-4: both topics were made, with defaults.
        for topic in pair {
            let state = client.state(topic);
            assert_eq!((&state["head_seq"], &state["type"]), (&json!(0), &json!("log")), "R-4 {state}");
            assert_eq!(state["config"]["durability"], "disk", "R-4");
        }
        // HEAD says what GET says, without the body (T-13).
        let answer = client.call("HEAD", &format!("/v0/routers/{router}"), "");
        assert_eq!((answer.status, answer.body.len()), (200, 0), "T-13");
        // T-14, T-15: other methods.
        for (target, allow) in [(format!("/v0/routers/{router}"), "PUT"), ("/v0/routers".into(), "GET")] {
            let answer = client.call("POST", &target, "{}");
            assert_eq!(answer.status, 405, "T-14");
            assert!(answer.header("allow").expect("T-15").contains(allow), "T-15 {answer:?}");
        }
    }
}

#[test]
fn a_router_name_may_hold_an_arrow_behind_its_first_byte() {
    let server = Server::shared();
    let mut client = server.connect();
    let [source, dest] = server.names("arrow");
    let long = "r".repeat(255);
    for (name, sent) in [("arrow->one", "arrow-%3Eone"), ("a.:_>", "a.:_%3e"), (long.as_str(), long.as_str())]
    {
        let answer = client.put_router(sent, &body(&source, &dest, ""));
        assert_eq!((answer.status, answer.member("router")), (201, json!(name)), "NM-2 T-24 {name}");
        assert_eq!(client.router(sent).member("router"), name, "NM-2");
        let gone = json!({"router": name, "deleted": true});
        assert_eq!(client.drop_router(sent).steady(), gone, "R-21 NM-2");
    }
    let longer = "r".repeat(256);
    for sent in ["%3Earrow", "-arrow", "a%20b", "%C3%A9", longer.as_str()] {
        let answer = client.put_router(sent, &body(&source, &dest, ""));
        answer.assert_fault(400, "invalid_request", &Value::Null, &format!("NM-2 {sent}"));
        // NM-3: elsewhere such a router is just not there.
        assert_eq!(client.router(sent).status, 404, "NM-3 {sent}");
        assert_eq!(client.drop_router(sent).member("deleted"), false, "NM-3 R-21 {sent}");
    }
    client.router("absent").assert_fault(404, "router_not_found", &json!({"router": "absent"}), "R-20");
    assert_eq!(client.drop_router("absent").steady(), json!({"router": "absent", "deleted": false}), "R-21");
    // T-24: a raw arrow is no target at all.
    client.send(request("GET", "/v0/routers/arrow->one", ""));
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.len()), (400, 0), "T-24 T-7");
    client.assert_closed("T-7");
}

#[test]
fn a_router_is_refused_in_order_and_leaves_nothing_behind() {
    let server = Server::shared();
    let mut client = server.connect();
    let none = Value::Null;
    let [[one, two], [other, absent]] = ["refuse-a", "refuse-b"].map(|tag| server.names(tag));
    client.link("refuse-one", [&one, &two], "");
    client.link("refuse-two", [&other, &format!("{other}-dest")], "");
    let fresh = "refuse-new";
    let fan_in = json!({"topic": two, "reason": "router_dest_fan_in"});
    let repoint = json!({"router": "refuse-one", "reason": "router_repoint_forbidden",
        "existing_source": one, "existing_dest": two});
    let cycle = json!({"cycle": [two, one, two]});
    let no_dest = json!({ "topic": absent });
    let closed = r#""create_dest":false"#;
    let incompatible = "topic_exists_incompatible";
    let table = [
        // rule, router, body, status, code, detail
        ("JSON", fresh, "{".into(), 400, "invalid_request", &none),
        ("J-2", fresh, "[]".into(), 400, "invalid_request", &none),
        ("source", fresh, r#"{"dest":"d"}"#.into(), 400, "invalid_request", &none),
        ("dest", fresh, r#"{"source":"s"}"#.into(), 400, "invalid_request", &none),
        ("J-6", fresh, r#"{"source":null,"dest":"d"}"#.into(), 400, "invalid_request", &none),
        ("J-5", fresh, r#"{"source":"s","dest":1}"#.into(), 400, "invalid_request", &none),
        ("J-4", fresh, body(fresh, "d", r#""dest":"d""#), 400, "invalid_request", &none),
        ("J-6", fresh, body(fresh, "d", r#""preserve_node":null"#), 400, "invalid_request", &none),
        ("J-7", fresh, body(fresh, "d", r#""preserve_tag":1"#), 400, "invalid_request", &none),
        ("J-7", fresh, body(fresh, "d", r#""allow_cycle":"true""#), 400, "invalid_request", &none),
        ("J-6", fresh, body(fresh, "d", r#""create_dest":null"#), 400, "invalid_request", &none),
        ("J-7", fresh, body(fresh, "d", r#""guarantee":"at_most_once""#), 400, "invalid_request", &none),
        ("J-7", fresh, body(fresh, "d", r#""guarantee":"Exactly_once""#), 400, "invalid_request", &none),
        ("J-6", fresh, body(fresh, "d", r#""guarantee":null"#), 400, "invalid_request", &none),
        ("§6", fresh, body(fresh, "d", r#""filter":["tag","Glob","a"]"#), 400, "invalid_request", &none),
        ("§6", fresh, body(fresh, "d", r#""filter":["node","Eq","a"]"#), 400, "invalid_request", &none),
        ("§6", fresh, body(fresh, "d", r#""filter":{}"#), 400, "invalid_request", &none),
        ("name before dest", "-bad", body(fresh, &absent, closed), 400, "invalid_request", &none),
        ("same before dest", fresh, body(&absent, &absent, closed), 400, "invalid_request", &none),
        ("topic names before dest", fresh, body("-bad", &absent, closed), 400, "invalid_request", &none),
        ("topic names", fresh, body(fresh, "a>b", ""), 400, "invalid_request", &none),
        ("topic names", fresh, body("", "d", ""), 400, "invalid_request", &none),
        ("dest missing", fresh, body(fresh, &absent, closed), 404, "topic_not_found", &no_dest),
        ("dest before repoint", "refuse-one", body(&one, &absent, closed), 404, "topic_not_found", &no_dest),
        ("R-10 fan-in", fresh, body(fresh, &two, ""), 409, incompatible, &fan_in),
        ("fan-in before repoint", "refuse-two", body(&other, &two, ""), 409, incompatible, &fan_in),
        ("R-3 dest", "refuse-one", body(&one, &absent, ""), 409, incompatible, &repoint),
        ("R-3 source", "refuse-one", body(fresh, &two, ""), 409, incompatible, &repoint),
        ("R-3 before cycle", "refuse-one", body(&two, &one, ""), 409, incompatible, &repoint),
        ("R-11", fresh, body(&two, &one, ""), 409, "router_cycle", &cycle),
    ];
    let state = [client.snapshot(&one), client.snapshot(&two)];
    for (rule, router, body, status, code, detail) in table {
        let what = format!("{rule} {router} {body}");
        client.put_router(router, &body).assert_fault(status, code, detail, &what);
        // R-5: neither a topic nor a router.
        for topic in [fresh, &absent, "d"] {
            assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "R-5 {what}: {topic}");
        }
        assert_eq!(client.router(fresh).status, 404, "R-5 {what}");
    }
    assert_eq!([client.snapshot(&one), client.snapshot(&two)], state, "R-5");
    // Media types: a body is needed (M-1, M-2).
    let answer = client.put_router(fresh, "");
    answer.assert_fault(415, "unsupported_media_type", &none, "M-2");
    let text = body(fresh, &absent, "");
    client.send(format!(
        "PUT /v0/routers/{fresh} HTTP/1.1\r\nContent-Type: text/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    ));
    client.answer().assert_fault(415, "unsupported_media_type", &none, "M-1");
    // B-2: JSON comes before the router's absence; a name that is not UTF-8 before JSON (B-1).
    client.put_router("%FF", "{").assert_fault(400, "invalid_request", &none, "T-23");
    // A queue may be a source and a destination.
    client.fresh(&absent, r#"{"type":"queue"}"#);
    assert_eq!(client.put_router(fresh, &body(fresh, &absent, closed)).status, 201, "R-4");
}

#[test]
fn one_destination_has_one_source_but_any_number_of_routers() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "fan").iter().enumerate() {
        let [first, second] = [1, 2].map(|router| format!("fan-{number}-{router}"));
        client.link(&first, [source, dest], "");
        client.link(&second, [source, dest], r#""preserve_tag":false"#);
        // R-10: it does not count against itself, each delivers its own copy, and direct writes go on.
        assert_eq!(client.put_router(&first, &body(source, dest, "")).status, 200, "R-10");
        client.append(source, r#"{"records":[{"data":1,"tag":"t"}]}"#);
        client.until(&format!("/v0/topics/{dest}"), "R-10", |state| state["head_seq"] == 2);
        client.append_all(dest, &["\"direct\""]);
        let read = client.diff(dest, r#"{"include_tags":true}"#).json();
        let tags: Vec<_> = read["records"].as_array().expect("records").iter().map(|r| &r["$tag"]).collect();
        assert_eq!(tags.iter().filter(|tag| **tag == "t").count(), 1, "R-10 {read}");
        assert_eq!((tags.len(), &read["records"][2]["data"]), (3, &json!("direct")), "R-10 {read}");
        for router in [&first, &second] {
            assert_eq!(client.router(router).u64("forwarded_total"), 1, "R-37 {router}");
        }
        // Once both are gone, another source may have it.
        client.drop_router(&first);
        let another = body(&format!("{source}-2"), dest, "");
        assert_eq!(client.put_router(&first, &another).status, 409, "R-10");
        client.drop_router(&second);
        assert_eq!(client.put_router(&first, &another).status, 201, "R-10");
    }
}

#[test]
fn cycles_are_refused_unless_allowed() {
    let server = Server::shared();
    let mut client = server.connect();
    let [[a, b], [c, d]] = ["ring-1", "ring-2"].map(|tag| server.names(tag));
    client.link("ring-ab", [&a, &b], "");
    client.link("ring-bc", [&b, &c], "");
    client.link("ring-cd", [&c, &d], "");
    let whole = json!({"cycle": [d, a, b, c, d]});
    client.put_router("ring-da", &body(&d, &a, "")).assert_fault(409, "router_cycle", &whole, "R-11");
    let part = json!({"cycle": [c, a, b, c]});
    client.put_router("ring-ca", &body(&c, &a, "")).assert_fault(409, "router_cycle", &part, "R-11");
    // Its own edge is ignored; another router on the same edge is no cycle.
    assert_eq!(client.put_router("ring-ab", &body(&a, &b, "")).status, 200, "R-11");
    client.link("ring-ab-2", [&a, &b], "");
    // Allowed by the router that closes it, and by no other; then not to be cleared.
    client.link("ring-da", [&d, &a], r#""allow_cycle":true"#);
    client.put_router("ring-da", &body(&d, &a, "")).assert_fault(409, "router_cycle", &whole, "R-11");
    assert_eq!(client.router("ring-da").member("allow_cycle"), true, "R-5 R-11");
    let elsewhere = json!({"cycle": [a, b, c, d, a]});
    client.put_router("ring-ab", &body(&a, &b, "")).assert_fault(409, "router_cycle", &elsewhere, "R-11");
    // An edge into the ring or out of it closes nothing.
    client.link("ring-in", ["ring-source", "ring-dest"], "");
    client.link("ring-out", [&d, "ring-source"], "");
    let long = json!({"cycle": ["ring-dest", a, b, c, d, "ring-source", "ring-dest"]});
    client.drop_router("ring-da");
    client.put_router("ring-x", &body("ring-dest", &a, "")).assert_fault(409, "router_cycle", &long, "R-11");
    // Without one of its edges it is none.
    client.drop_router("ring-cd");
    client.link("ring-x", ["ring-dest", &a], "");
}

#[test]
fn records_go_round_in_a_cycle_for_eight_hops() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [a, b]) in pairs(server, "hops").iter().enumerate() {
        let [there, back] = ["there", "back"].map(|way| format!("hops-{number}-{way}"));
        client.link(&there, [a, b], "");
        client.link(&back, [b, a], r#""allow_cycle":true"#);
        for round in 1..=3_u64 {
            client.append_all(a, &[&round.to_string()]);
            // Five in its own topic and four in the other, of every write before and this one: a hop
            // too many of an earlier one would show here.
            client.until(&format!("/v0/topics/{a}"), "R-12", |state| state["count"] == 5 * round);
            client.until(&format!("/v0/topics/{b}"), "R-12", |state| state["count"] == 4 * round);
        }
        assert_eq!(client.data(b), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], "R-12 I-60");
        assert_eq!(client.router(&there).u64("forwarded_total"), 12, "R-37");
        assert_eq!(client.router(&back).u64("forwarded_total"), 12, "R-37: hop-limited ones do not count");
    }
}

#[test]
fn a_chain_ends_after_eight_hops() {
    let server = Server::shared();
    let mut client = server.connect();
    let topics: Vec<String> =
        (0..10).map(|at| server.names(&format!("chain-{at}"))[at % 2].clone()).collect();
    for at in 0..9 {
        client.link(&format!("chain-{at}"), [&topics[at], &topics[at + 1]], r#""allow_cycle":true"#);
    }
    client.append_all(&topics[0], &["\"far\""]);
    client.until(&format!("/v0/topics/{}", topics[8]), "R-12", |state| state["head_seq"] == 1);
    client.append_all(&topics[8], &["\"near\""]);
    // R-12 L-9: the copy behind eight hops stays where it is; what comes behind it passes.
    assert_eq!(client.data(&topics[9]), ["near"], "R-12 L-9");
    assert_eq!(client.router("chain-8").u64("forwarded_total"), 1, "R-37");
}

#[test]
fn routers_are_listed_by_name_in_pages() {
    let server = Server::shared();
    let mut client = server.connect();
    let (one, two) = (server.names("list-a"), server.names("list-b"));
    let edges =
        [("list-b", [&one[0], &two[0]]), ("list-a", [&one[1], &two[1]]), ("list-c%3Ed", [&one[0], &two[1]])];
    // The third would be a fan-in into a dest of another source.
    for (router, ends) in edges {
        let third = router.starts_with("list-c");
        let dest = if third { "list-third".to_owned() } else { ends[1].clone() };
        client.link(router, [ends[0], &dest], if third { r#""guarantee":"exactly_once""# } else { "" });
    }
    client.append_all(&one[0], &["1", "2"]);
    for router in ["list-b", "list-c%3Ed"] {
        assert_eq!(client.router(router).u64("forwarded_total"), 2, "R-20");
    }
    let entry = |router: &str, source: &str, dest: &str, guarantee: &str, total: u64| {
        json!({"router": router, "source": source, "dest": dest, "guarantee": guarantee,
            "forwarded_total": total})
    };
    let a = entry("list-a", &one[1], &two[1], "at_least_once", 0);
    let b = entry("list-b", &one[0], &two[0], "at_least_once", 2);
    let c = entry("list-c>d", &one[0], "list-third", "exactly_once", 2);
    let table = [
        ("R-25", "prefix=list-".to_owned(), json!([a, b, c])),
        ("R-25", format!("source={}", one[0]), json!([b, c])),
        ("R-25", format!("dest={}", two[1]), json!([a])),
        ("R-25 exact", format!("source={}", &one[0][..one[0].len() - 1]), json!([])),
        ("R-25", format!("source={}&dest=list-third", one[0]), json!([c])),
        ("R-25", format!("source={}&dest={}", one[1], two[0]), json!([])),
        ("G-5", "prefix=list-c>".replace('>', "%3E"), json!([c])),
    ];
    for (rule, query, expected) in table {
        let answer = client.get(&format!("/v0/routers?{query}"));
        assert_eq!((answer.status, answer.steady()), (200, json!({"routers": expected})), "{rule} {query}");
    }
    // Page by page; a cursor outlives its entry (G-3).
    let mut query = "prefix=list-&page_size=1".to_owned();
    for (page, expected) in [&a, &b, &c].into_iter().enumerate() {
        let answer = client.get(&format!("/v0/routers?{query}"));
        assert_eq!(answer.member("routers"), json!([expected]), "G-1 G-2");
        let Some(cursor) = answer.json()["next_cursor"].as_str().map(str::to_owned) else {
            assert_eq!(page, 2, "G-2: {}", answer.text());
            break;
        };
        assert!(page < 2, "G-2: {}", answer.text());
        query = format!("prefix=list-&page_size=1&cursor={cursor}");
        if page == 0 {
            client.drop_router("list-a");
        }
    }
    let bad = client.get("/v0/routers?cursor=%21");
    bad.assert_fault(400, "invalid_request", &Value::Null, "G-4");
    assert_eq!(client.get("/v0/routers?cursor=&page_size=x").status, 200, "G-4 K-4");
}

#[test]
fn a_topic_takes_its_routers_with_it() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "gone").iter().enumerate() {
        let [z, a, m] = ["z", "a", "m"].map(|name| format!("gone-{number}-{name}"));
        let far = format!("{dest}-far");
        for victim in [source, dest] {
            client.link(&z, [source, dest], "");
            client.link(&a, [source, dest], "");
            client.link(&m, [dest, &far], "");
            client.append_all(source, &["1"]);
            client.until(&format!("/v0/topics/{far}"), "R-10", |state| state["count"] == 2);
            // TD-1 R-22: as source or as dest, and in order.
            let removed = if victim == source { json!([a, z]) } else { json!([a, m, z]) };
            let expected = json!({"topic": victim, "deleted": true, "routers_removed": removed});
            assert_eq!(client.drop_topic(victim).steady(), expected, "TD-1 R-22");
            for router in [&z, &a] {
                assert_eq!(client.router(router).status, 404, "R-22");
            }
            // I-70: a topic of the same name has nothing to do with them.
            client.fresh(victim, "");
            client.append_all(source, &["2"]);
            let copies = if victim == source { json!([1, 1]) } else { json!([]) };
            assert_eq!(json!(client.data(dest)), copies, "R-22 R-21: copies stay, and no new ones come");
            for topic in [source, dest, &far] {
                client.drop_topic(topic);
            }
            assert_eq!(client.router(&m).status, 404, "R-22");
        }
        let absent = json!({"topic": source, "deleted": false, "routers_removed": []});
        assert_eq!(client.drop_topic(source).steady(), absent, "TD-2");
    }
}

#[test]
fn routers_and_the_topics_they_make_are_counted() {
    let server = Server::start(&[("RUNELOG_MAX_ROUTERS", "2"), ("RUNELOG_MAX_TOPICS", "5")]);
    let mut client = server.connect();
    let gauge = |client: &mut Client| -> u64 {
        let text = client.get("/v0/metrics").text().to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("topics_routers "));
        line.unwrap_or_else(|| panic!("topics_routers in {text}")).parse().expect("a number")
    };
    client.link("one", ["a", "b"], "");
    client.link("two", ["a", "c"], "");
    assert_eq!(gauge(&mut client), 2, "§11");
    let full = json!({"limit": "max_routers", "max": 2});
    // L-3: no topic of it is made; the cap comes before the cycle, and behind the fan-in.
    for topics in [["x", "y"], ["b", "a"]] {
        client.put_router("three", &body(topics[0], topics[1], "")).assert_fault(
            429,
            "throttled",
            &full,
            "L-2",
        );
    }
    let fan_in = json!({"topic": "b", "reason": "router_dest_fan_in"});
    let answer = client.put_router("three", &body("x", "b", ""));
    answer.assert_fault(409, "topic_exists_incompatible", &fan_in, "R-10");
    for topic in ["x", "y"] {
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "L-3 R-5");
    }
    assert_eq!(client.put_router("two", &body("a", "c", r#""filter":"t""#)).status, 200, "L-3");
    client.drop_router("two");
    assert_eq!(gauge(&mut client), 1, "§11");
    // Three topics are there. Of the two that a router needs, both fit; then only one; then none.
    client.link("two", ["x", "y"], "");
    client.drop_router("two");
    client.drop_topic("y");
    let full = json!({"limit": "max_topics", "max": 5});
    let answer = client.put_router("two", &body("new-1", "new-2", ""));
    answer.assert_fault(429, "throttled", &full, "§7.1 max_topics");
    assert_eq!(client.router("two").status, 404, "L-3");
    for topic in ["new-1", "new-2"] {
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "R-5");
    }
    client.link("two", ["x", "y"], "");
    client.drop_router("two");
    // L-2: exact, however many ask at once.
    std::thread::scope(|scope| {
        let asks: Vec<_> = (0..4)
            .map(|number| {
                let mut client = server.connect();
                scope.spawn(move || client.put_router(&format!("n{number}"), &body("a", "c", "")).status)
            })
            .collect();
        let mut statuses: Vec<u16> = asks.into_iter().map(|ask| ask.join().expect("an answer")).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 429, 429, 429], "L-2");
    });
    assert_eq!(gauge(&mut client), 2, "L-2");
}
