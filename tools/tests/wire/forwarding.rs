//! What a router copies, when, and what its destination shows (§7.4).

use crate::harness::{Client, LONG_WAIT_MS, Server, pairs, request};
use crate::routers::body;
use serde_json::{Value, json};

/// A number of the metrics, over all cores.
fn metric(client: &mut Client, name: &str) -> u64 {
    let text = client.get("/v0/metrics").text().to_owned();
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.split_once(' '));
    let found: Vec<u64> = series
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .map(|(_, value)| value.parse().expect("a number"))
        .collect();
    assert!(!found.is_empty(), "{name} in {text}");
    found.iter().sum()
}

fn total(client: &mut Client, router: &str) -> u64 {
    client.router(router).u64("forwarded_total")
}

#[test]
fn every_read_of_a_destination_shows_what_was_acknowledged_before_it() {
    let server = Server::shared();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        for (number, [source, dest]) in pairs(server, &format!("settle-{class}")).iter().enumerate() {
            let (mut writer, mut reader) = (server.connect(), server.connect());
            let router = format!("settle-{class}-{number}");
            writer.fresh(source, &format!(r#"{{"durability":"{class}"}}"#));
            writer.fresh(dest, &format!(r#"{{"durability":"{class}","type":"queue"}}"#));
            writer.link(&router, [source, dest], "");
            for seq in 1..=12_u64 {
                writer.append_all(source, &[&seq.to_string()]);
                let what = format!("R-30 {class} {source} {seq}");
                match seq % 4 {
                    0 => assert_eq!(reader.state(dest)["head_seq"], seq, "TS-4 {what}"),
                    1 => {
                        let read = reader.diff(dest, &format!(r#"{{"from_seq":{}}}"#, seq - 1)).json();
                        assert_eq!(read["records"][0]["data"], seq, "D-10 {what}: {read}");
                        assert_eq!(
                            (&read["head_seq"], &read["lag"]),
                            (&json!(seq), &json!(0)),
                            "D-11 {what}"
                        );
                    }
                    2 => assert_eq!(total(&mut reader, &router), seq, "R-20 {what}"),
                    _ => {
                        let ask = r#"{"node":"w","max":100}"#;
                        let claim = reader.call("POST", &format!("/v0/topics/{dest}/claim"), ask);
                        let newest = claim.json()["claimed"]
                            .as_array()
                            .and_then(|all| Some(all.last()?["$seq"].clone()));
                        assert_eq!(newest, Some(json!(seq)), "Q-16 {what}: {}", claim.text());
                    }
                }
            }
            assert_eq!(reader.data(dest), (1..=12).collect::<Vec<u64>>(), "R-32 I-60");
            assert_eq!(total(&mut reader, &router), 12, "R-37");
        }
    }
}

#[test]
fn copies_come_without_a_reader_and_wake_those_who_wait() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "alone").iter().enumerate() {
        let router = format!("alone-{number}");
        client.link(&router, [source, dest], "");
        client.append_all(source, &["1", "2"]);
        // R-30: neither list applies pending forwards, so what they show came by itself (TL-3, R-25).
        let list = format!("/v0/topics?prefix={dest}");
        client.until(&list, "R-30 TL-3", |list| list["topics"][0]["head_seq"] == 2);
        let list = format!("/v0/routers?source={source}");
        client.until(&list, "R-30 R-25", |list| list["routers"][0]["forwarded_total"] == 2);
        // D-23: the wait ends when the copy lands.
        let mut reader = server.connect();
        for seq in 3..=8_u64 {
            let wait = format!(r#"{{"from_seq":{},"wait_ms":{LONG_WAIT_MS}}}"#, seq - 1);
            reader.send(request("POST", &format!("/v0/topics/{dest}/diff"), &wait));
            client.append_all(source, &[&seq.to_string()]);
            let answer = reader.answer();
            assert_eq!(answer.member("records")[0]["data"], seq, "D-23 I-46 {}", answer.text());
        }
    }
}

#[test]
fn a_router_begins_where_its_source_ends() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "begin").iter().enumerate() {
        let router = format!("begin-{number}");
        client.append_all(source, &["\"before\""]);
        client.link(&router, [source, dest], "");
        assert_eq!((client.data(dest).len(), total(&mut client, &router)), (0, 0), "R-31");
        client.append_all(source, &["1"]);
        assert_eq!(client.data(dest), [1], "R-31");
        // An update does not begin anew, and a new router of the name does (R-6, R-21, I-60).
        client.put_router(&router, &body(source, dest, r#""preserve_node":false"#));
        client.append_all(source, &["2"]);
        assert_eq!((client.data(dest), total(&mut client, &router)), (vec![json!(1), json!(2)], 2), "R-6");
        client.append_all(source, &["3"]);
        assert_eq!(client.drop_router(&router).member("deleted"), true);
        client.append_all(source, &["\"between\""]);
        client.link(&router, [source, dest], "");
        client.append_all(source, &["4"]);
        let mut copies = client.data(dest);
        // What was written before the deletion may have been on its way.
        copies.retain(|data| data != 3);
        assert_eq!(copies, [1, 2, 4], "R-21 R-31 I-60");
        assert_eq!(total(&mut client, &router), 1, "R-21");
    }
}

#[test]
fn a_copy_has_what_the_router_preserves_and_a_seq_of_its_own() {
    let server = Server::shared();
    let mut client = server.connect();
    let payload = r#"{"é\u00e9" : [1.0, 1e2,"\/"], "a":1,"a":2}"#;
    for (number, [source, dest]) in pairs(server, "copy").iter().enumerate() {
        for (both, options, members) in [
            ("both", "", json!({"$tag": "t", "$node": "n"})),
            ("tag", r#""preserve_node":false"#, json!({"$tag": "t"})),
            ("node", r#""preserve_tag":false"#, json!({"$node": "n"})),
            ("none", r#""preserve_node":false,"preserve_tag":false"#, json!({})),
        ] {
            let dest = format!("{dest}-{both}");
            client.append_all(&dest, &["\"direct\"", "\"direct\""]);
            client.link(&format!("copy-{number}-{both}"), [source, &dest], options);
            let answer = client.append(
                source,
                &format!(r#"{{"node":"n","records":[{{"data":{payload},"meta":[ 1 ,2],"tag":"t"}}]}}"#),
            );
            client.append(source, r#"{"records":[{"data":null,"tag":"","node":""},{"data":3}]}"#);
            let read = client.diff(&dest, r#"{"from_seq":2,"include_tags":true}"#);
            assert!(read.text().contains(&format!(r#""data":{payload}"#)), "J-21 R-32: {}", read.text());
            assert!(read.text().contains(r#""meta":[ 1 ,2]"#), "J-21 R-32: {}", read.text());
            let records = read.json()["records"].clone();
            let mut first = records[0].as_object().expect("a record").clone();
            assert!(first["$ts"].as_u64() >= Some(1_600_000_000_000), "R-32 M-4");
            for member in ["$ts", "data", "meta"] {
                first.remove(member);
            }
            let mut expected = members.clone();
            expected["$seq"] = 3.into();
            assert_eq!(Value::Object(first), expected, "R-32 {both} {}", answer.text());
            // Empty is not absent (W-35).
            for (member, kept) in [("$tag", "$tag"), ("$node", "$node")] {
                let expected = if members.get(kept).is_some() { json!("") } else { Value::Null };
                assert_eq!(records[1][member], expected, "R-32 W-35 {both}");
                assert_eq!(records[2][member], Value::Null, "R-32 {both}");
            }
            let seqs: Vec<_> = (0..3).map(|at| records[at]["$seq"].clone()).collect();
            assert_eq!(seqs, [3, 4, 5], "R-32 I-2");
            let state = client.state(&dest);
            let bytes = 16 + payload.len() + "[ 1 ,2]".len() + 4 + 1;
            assert_eq!((&state["count"], &state["bytes"]), (&json!(5), &json!(bytes)), "I-8 J-23");
        }
    }
}

#[test]
fn a_filter_takes_what_it_names_and_passes_the_rest_for_good() {
    let server = Server::shared();
    let mut client = server.connect();
    // Data 1 to 7, tagged: sale:1, sale:2, refund, sal, none, the empty tag, a*b.
    let records = r#"{"records":[{"data":1,"tag":"sale:1"},{"data":2,"tag":"sale:2"},{"data":3,"tag":"refund"},
        {"data":4,"tag":"sal"},{"data":5},{"data":6,"tag":""},{"data":7,"tag":"a*b"}]}"#;
    let table = [
        // rule, filter, data of the copies
        ("R-34 none", "null", vec![1, 2, 3, 4, 5, 6, 7]),
        ("R-34 Eq", r#"["tag","Eq","sale:1"]"#, vec![1]),
        ("R-34 Eq", r#"["tag","Eq","sal*"]"#, vec![]),
        ("R-34 Eq", r#"["tag","Eq","a*b"]"#, vec![7]),
        ("R-34 Glob", r#"["tag","Glob","sale:*"]"#, vec![1, 2]),
        ("R-34 Glob", r#"["tag","Glob","sal*"]"#, vec![1, 2, 4]),
        ("R-34 Glob", r#"["tag","Glob","*"]"#, vec![1, 2, 3, 4, 6, 7]),
        ("R-34 short", r#""refund""#, vec![3]),
        ("R-34 short", r#""""#, vec![6]),
        ("R-34 short", r#""a**""#, vec![7]),
        ("R-34 short", r#""s**""#, vec![]),
        ("R-34 short", r#""a*b*""#, vec![7]),
        ("R-34 short", r#""*""#, vec![1, 2, 3, 4, 6, 7]),
    ];
    for (number, [source, dest]) in pairs(server, "filter").iter().enumerate() {
        let (router, mut copies) = (format!("filter-{number}"), 0);
        client.link(&router, [source, dest], r#""filter":"nothing""#);
        for (rule, filter, expected) in &table {
            let answer = client.put_router(&router, &body(source, dest, &format!(r#""filter":{filter}"#)));
            assert_eq!(answer.status, 200, "{rule} {}", answer.text());
            client.append(source, records);
            let read = client.diff(dest, &format!(r#"{{"from_seq":{copies},"limit":100}}"#)).json();
            let data: Vec<_> =
                read["records"].as_array().expect("records").iter().map(|r| &r["data"]).collect();
            // What an earlier filter passed over does not come back (R-34), and the numbers stay dense.
            assert_eq!(data, expected.iter().collect::<Vec<_>>(), "{rule} {filter}");
            copies += expected.len();
            assert_eq!(read["head_seq"], copies, "I-2 {rule} {filter}");
            assert_eq!(total(&mut client, &router), copies as u64, "R-37 R-6 {rule} {filter}");
        }
    }
}

#[test]
fn copies_follow_the_retention_of_their_destination() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "kept").iter().enumerate() {
        client.fresh(dest, r#"{"cap_records":2}"#);
        client.link(&format!("kept-{number}"), [source, dest], "");
        client.append_all(source, &["1", "2", "3", "4", "5"]);
        let read = client.diff(dest, "").json();
        assert_eq!(read["records"].as_array().map(Vec::len), Some(2), "R-35 R-38 CF-11: {read}");
        assert_eq!((&read["earliest_seq"], &read["tombstone"]["reason"]), (&json!(4), &json!("cap")), "R-35");
        assert_eq!(client.state(source)["count"], 5, "R-38: the source has its own");
        assert_eq!(total(&mut client, &format!("kept-{number}")), 5, "R-37");
        // R-38: age counts from the copy, and only in dest.
        client.put(dest, r#"{"ttl_ms":1}"#);
        let state = format!("/v0/topics/{dest}");
        client.until(&state, "R-38 CF-10", |state| state["count"] == 0);
        // R-33: deletes in the source do not travel, nor do those in dest travel back (X-10).
        client.put(dest, "");
        client.append_all(source, &["6", "7"]);
        client.until(&state, "R-30", |state| state["head_seq"] == 7);
        client.delete(source, r#"{"before_seq":8}"#);
        client.append_all(source, &["8"]);
        assert_eq!(client.data(dest), [6, 7, 8], "R-33 X-10");
        client.delete(dest, r#"{"before_seq":9}"#);
        assert_eq!((client.data(dest).len(), client.data(source)), (0, vec![json!(8)]), "X-10");
    }
}

#[test]
fn priorities_change_neither_order_nor_visibility() {
    let server = Server::shared();
    let mut client = server.connect();
    let (sources, dests) = (server.names("first-src"), server.names("first-dst"));
    for ((source, dest), priority) in sources.iter().zip(&dests).zip(["-1000", "1000"]) {
        client.fresh(source, &format!(r#"{{"priority":{priority}}}"#));
        client.fresh(dest, &format!(r#"{{"priority":{priority}}}"#));
        client.link(source, [source, dest], "");
    }
    for data in 0..20 {
        for source in &sources {
            client.append_all(source, &[&data.to_string()]);
        }
    }
    for (source, dest) in sources.iter().zip(&dests) {
        assert_eq!(client.data(dest), (0..20).collect::<Vec<u64>>(), "PR-3 R-30");
        assert_eq!(client.data(source), client.data(dest), "PR-3 I-60");
    }
}

/// Exactly-once copies: what is in `meta` beside `_topics_router`.
#[test]
fn an_exactly_once_copy_carries_its_key() {
    let server = Server::shared();
    let mut client = server.connect();
    let many: Vec<String> = (0..64).map(|at| format!(r#""m{at}":{at}"#)).collect();
    let (full, fits) = (format!("{{{}}}", many.join(",")), format!("{{{}}}", many[1..].join(",")));
    let metas = ["null", r#"{"a":[1 , 2]}"#, "{}", "[1]", "\"text\"", "false", full.as_str(), fits.as_str()];
    for (number, [source, dest]) in pairs(server, "once").iter().enumerate() {
        let router = format!("once-{number}-%3Ex");
        client.append_all(source, &["\"before\""]);
        client.link(&router, [source, dest], r#""guarantee":"exactly_once""#);
        let records: Vec<String> =
            metas.iter().map(|meta| format!(r#"{{"data":[ {meta} ],"meta":{meta}}}"#)).collect();
        client.append(source, &format!(r#"{{"records":[{}]}}"#, records.join(",")));
        let read = client.diff(dest, "");
        assert!(read.text().contains(r#""a":[1 , 2]"#), "J-21 R-41: {}", read.text());
        let records = read.json()["records"].as_array().expect("records").clone();
        assert_eq!(records.len(), metas.len(), "R-41");
        let mut keys = Vec::new();
        for (at, (meta, record)) in metas.iter().zip(&records).enumerate() {
            let old: Value = serde_json::from_str(meta).expect("JSON");
            assert_eq!(record["data"], json!([old]), "R-32");
            let mut meta = record["meta"].as_object().expect("an object").clone();
            let about = meta.remove("_topics_router").expect("R-41");
            let rest = match &old {
                Value::Null => json!({}),
                Value::Object(members) if members.len() < 64 => old,
                _ => json!({ "_topics_original_meta": old }),
            };
            assert_eq!(Value::Object(meta), rest, "R-41");
            let about = about.as_object().expect("R-41: an object");
            let mut members: Vec<_> = about.keys().map(String::as_str).collect();
            members.sort_unstable();
            let known = [
                "idempotency_key",
                "router",
                "source_epoch",
                "source_seq",
                "source_topic",
                "source_topic_id",
            ];
            assert_eq!(members, known, "R-41");
            let name = format!("once-{number}->x");
            assert_eq!((&about["router"], &about["source_topic"]), (&json!(name), &json!(source)), "R-41");
            assert_eq!(about["source_seq"], at + 2, "R-41");
            let key = about["idempotency_key"].as_str().expect("R-41: a string");
            assert!(key.starts_with(&format!("router:{name}:")), "R-41: {key}");
            keys.push(key.to_owned());
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), metas.len(), "R-41 I-67: one key each");
        assert_eq!(total(&mut client, &router), metas.len() as u64, "R-37");
        // R-2: back to the default, copies are as their originals.
        client.put_router(&router, &body(source, dest, ""));
        client.append_all(source, &["9"]);
        let read = client.diff(dest, &format!(r#"{{"from_seq":{}}}"#, metas.len())).json();
        assert_eq!(
            (&read["records"][0]["data"], &read["records"][0]["meta"]),
            (&json!(9), &Value::Null),
            "R-2"
        );
    }
}

#[test]
fn a_copy_that_grows_too_large_is_passed_over() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "large").iter().enumerate() {
        let router = format!("large-{number}");
        client.link(&router, [source, dest], r#""guarantee":"exactly_once""#);
        let before = metric(&mut client, "runelog_router_skipped_total");
        // Two of the largest that may be written: by `meta`, and by the whole record.
        let meta = format!(r#"{{"m":"{}"}}"#, "m".repeat(16_384 - 8));
        let data = format!("\"{}\"", "d".repeat((1 << 20) - 2));
        client.append_all(source, &["1"]);
        client.append(source, &format!(r#"{{"records":[{{"data":2,"meta":{meta}}},{{"data":3}}]}}"#));
        client.append_all(source, &[&data, "5"]);
        assert_eq!(client.data(dest), [1, 3, 5], "R-42");
        assert_eq!(total(&mut client, &router), 3, "R-37");
        let skipped = metric(&mut client, "runelog_router_skipped_total") - before;
        assert!(skipped >= 2, "R-42: counted: {skipped}");
    }
}

#[test]
fn copies_cost_no_frames() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for class in ["fsync", "memory"] {
        let source = &server.names(&format!("frames-{class}"))[0];
        let config = format!(r#"{{"durability":"{class}"}}"#);
        client.fresh(source, &config);
        for routers in [1, 20] {
            let dests: Vec<String> = (0..routers)
                .map(|at| server.names(&format!("frames-{class}-{at}"))[at % 2].clone())
                .collect();
            for dest in &dests {
                if client.get(&format!("/v0/topics/{dest}")).status == 404 {
                    client.fresh(dest, &config);
                    client.link(dest, [source, dest], "");
                }
            }
            let mut heads: Vec<u64> = Vec::new();
            for dest in &dests {
                heads.push(client.state(dest)["head_seq"].as_u64().expect("a head"));
            }
            let before = metric(&mut client, "topics_wal_frames_total");
            metric(&mut client, "runelog_wal_marks_total");
            client.append_all(source, &["1"]);
            for (dest, head) in dests.iter().zip(heads) {
                assert_eq!(client.state(dest)["head_seq"], head + 1, "R-30");
            }
            let after = metric(&mut client, "topics_wal_frames_total");
            assert_eq!(after - before, 1, "H-8 I-61 {class}, {routers} routers");
            let json = "GET /v0/metrics HTTP/1.1\r\nAccept: application/json\r\n\r\n";
            client.send(json);
            assert_eq!(client.answer().member("wal")["frames"], after, "H-7");
        }
    }
}

#[test]
fn writers_readers_and_a_router_at_once() {
    let server = Server::shared();
    const WRITES: u64 = 60;
    for (number, [source, dest]) in pairs(server, "busy").iter().enumerate() {
        let mut client = server.connect();
        client.fresh(source, r#"{"durability":"memory"}"#);
        client.link(&format!("busy-{number}"), [source, dest], "");
        std::thread::scope(|scope| {
            for writer in 0..3_u64 {
                scope.spawn(move || {
                    let mut client = server.connect();
                    for write in 0..WRITES {
                        client.append_all(source, &[&(writer << 32 | write).to_string()]);
                        if write % 8 == 0 {
                            client.append_all(dest, &["\"direct\""]);
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(move || {
                    // A reader that follows its cursor sees each copy once and in order (I-42, D-3).
                    let (mut client, mut cursor, mut seen) = (server.connect(), 0, Vec::new());
                    while seen.len() < 3 * WRITES as usize {
                        let read = client.diff(dest, &format!(r#"{{"from_seq":{cursor},"wait_ms":1000}}"#));
                        for record in read.json()["records"].as_array().expect("records") {
                            seen.extend(record["data"].as_u64());
                        }
                        cursor = read.u64("next_from_seq");
                    }
                    for writer in 0..3 {
                        let its: Vec<u64> =
                            seen.iter().filter(|data| **data >> 32 == writer).copied().collect();
                        let sent: Vec<u64> = (0..WRITES).map(|write| writer << 32 | write).collect();
                        assert_eq!(its, sent, "I-60 I-69 R-32");
                    }
                });
            }
        });
        // The order of the copies is that of the source, direct writes wherever they fell.
        let mut copies = client.data(dest);
        copies.retain(|data| data != "direct");
        assert_eq!(copies, client.data(source), "I-60 R-32");
        assert_eq!(total(&mut client, &format!("busy-{number}")), 3 * WRITES, "R-37");
        assert_eq!(client.state(dest)["head_seq"], 3 * WRITES + 24, "I-2");
    }
}
