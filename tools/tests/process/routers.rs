//! Routers over kills and stops: what was copied stays where it was, and nothing is left out (§12 of the
//! model: rebuilding a destination from its source would undo deletes and direct writes, and a lost
//! stretch of the source must not hide older records).

use serde_json::{Value, json};

use crate::ask::{Ask, live, view};
use crate::client::{Client, View};
use crate::server::{Dir, Server};

/// Small steps between checkpoints, so that some of them fall between the operations of a test.
const AGE: (&str, &str) = ("RUNELOG_SEGMENT_MAX_AGE_MS", "100");

/// A server that was killed, or stopped, and is back. Its cores change, so that owners do.
fn again(home: &Dir, server: Server, round: usize) -> Server {
    let shards = ["2", "1", "3"][round % 3];
    match round % 4 {
        3 => server.stop_well(),
        _ => server.kill(),
    }
    Server::start(home.path(), &[AGE, ("RUNELOG_SHARDS", shards)])
}

/// All of it, for source and destination on whatever cores, in each pair of classes that keeps.
const PAIRS: [(&str, &str); 4] = [("disk", "disk"), ("disk", "fsync"), ("fsync", "disk"), ("fsync", "fsync")];

#[test]
fn copies_direct_writes_and_deletes_stay_as_they_were_shown() {
    let home = Dir::new("copies");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    let mut number = 0;
    let mut sent: Vec<Vec<u64>> = Vec::new();
    let mut gone: Vec<Vec<u64>> = Vec::new();
    for (at, (source, dest)) in PAIRS.iter().enumerate() {
        client.topic(&format!("source-{at}"), &format!("{{\"durability\":\"{source}\"}}"));
        client.topic(&format!("dest-{at}"), &format!("{{\"durability\":\"{dest}\"}}"));
        client.add(&format!("source-{at}"), [900_000]); // never copied, also not after a restart
        client.link(&format!("router-{at}"), &format!("source-{at}"), &format!("dest-{at}"), "");
        sent.push(Vec::new());
        gone.push(Vec::new());
    }
    for round in 0..8 {
        let mut before = Vec::new();
        for at in 0..PAIRS.len() {
            let (source, dest) = (format!("source-{at}"), format!("dest-{at}"));
            for step in 0..6 {
                number += 10;
                // Copies, a direct write between them, a delete of one of each kind.
                client.add(&source, [number, number + 1]);
                let settled = client.ask("GET", &format!("/v0/topics/{dest}"), "");
                assert!(settled["count"].as_u64() >= Some(2), "R-30: {settled}");
                client.add(&dest, [number + 2]);
                sent[at].extend([number, number + 1, number + 2]);
                if step % 2 == 1 {
                    for data in [number + 1, number - 8] {
                        assert_eq!(client.remove(&dest, data), 1, "{data} is there once");
                        gone[at].push(data);
                    }
                }
            }
            before.push(view(&mut client, &dest));
            // Acknowledged, and perhaps not copied when the server dies.
            number += 10;
            client.add(&source, [number, number + 1, number + 2]);
            sent[at].extend([number, number + 1, number + 2]);
        }
        drop(client);
        server = again(&home, server, round);
        client = server.client();
        for (at, before) in before.iter().enumerate() {
            let after = view(&mut client, &format!("dest-{at}"));
            let what = format!("dest-{at}, round {round}");
            // I-63, I-64, I-65: what was shown is where it was, with the same bytes and time.
            for record in &before.records {
                assert!(after.records.contains(record), "{what}: {record:?} is not at its seq (I-63 I-64)");
            }
            let shown = before.records.last().map_or(0, |last| last.seq);
            let later = after.records.iter().filter(|record| record.seq <= shown);
            assert_eq!(later.count(), before.records.len(), "{what}: more than before up to {shown} (I-65)");
            assert_eq!(after.floor, before.floor, "{what} (I-25)");
            assert!(after.earliest >= before.earliest && after.head >= before.head, "{what} (I-21 I-25)");
            // I-62: nothing is left out, and nothing deleted comes back.
            let mut found: Vec<u64> = live(&after).into_iter().map(|(_, data)| data).collect();
            let mut wanted: Vec<u64> =
                sent[at].iter().filter(|data| !gone[at].contains(data)).copied().collect();
            found.sort_unstable();
            wanted.sort_unstable();
            found.dedup(); // the tail may be there twice
            assert_eq!(found, wanted, "{what} (I-62 I-65 R-31)");
        }
    }
    server.stop_well();
}

#[test]
fn definitions_totals_and_deletions_outlive_kills_and_stops() {
    let home = Dir::new("defined");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.link(
        "kept",
        "a",
        "b",
        ",\"filter\":\"t*\",\"preserve_node\":false,\"preserve_tag\":false,\"guarantee\":\"exactly_once\"",
    );
    client.link("back", "b", "a", ",\"allow_cycle\":true,\"filter\":\"never\"");
    client.link("dropped", "a", "b", ",\"allow_cycle\":true");
    client.link("by-topic", "c", "d", "");
    client.ask("DELETE", "/v0/routers/dropped", "");
    let removed = client.ask("DELETE", "/v0/topics/c", "");
    assert_eq!(removed["routers_removed"], json!(["by-topic"]), "TD-1");
    client.add("a", 0..5);
    assert_eq!(client.total("kept"), 5, "R-20");
    let shown = |client: &mut Client| {
        let mut shown = Vec::new();
        for router in ["kept", "back"] {
            let mut all = client.ask("GET", &format!("/v0/routers/{router}"), "");
            all.as_object_mut().expect("an object").remove("performance");
            shown.push(all);
        }
        shown
    };
    let before = shown(&mut client);
    for round in 0..4 {
        // An update is kept too (R-6, I-50): the filter of `back` tells the rounds apart.
        let filter = format!(",\"allow_cycle\":true,\"filter\":\"never-{round}\"");
        client.link("back", "b", "a", &filter);
        drop(client);
        server = again(&home, server, round);
        client = server.client();
        let mut after = shown(&mut client);
        assert_eq!(after[1]["filter"], json!(["tag", "Eq", format!("never-{round}")]), "I-50 {round}");
        after[1]["filter"] = before[1]["filter"].clone();
        // I-59 for a stop; a kill has to keep the total of what it keeps in dest.
        assert_eq!(after, before, "I-50 I-59 {round}");
        for gone in ["dropped", "by-topic"] {
            assert_eq!(client.status("GET", &format!("/v0/routers/{gone}"), ""), 404, "I-50 TD-5 R-21");
        }
        // I-70: topics of old names have no links of old.
        if round == 1 {
            client.topic("c", "");
            client.add("c", [77]);
        }
        assert_eq!(view(&mut client, "d").head, 0, "I-70 TD-5");
    }
    // SH-5: an orderly stop forwards what is pending. The list does not, so it shows what the stop did.
    client.add("a", 10..20);
    drop(client);
    server.stop_well();
    let server = Server::start(home.path(), &[AGE]);
    let list = server.client().ask("GET", "/v0/routers?prefix=kept", "");
    assert_eq!(list["routers"][0]["forwarded_total"], 15, "SH-5 I-59: {list}");
    server.stop_well();
}

#[test]
fn a_gap_of_the_source_hides_nothing_after_a_restart_either() {
    let home = Dir::new("trimmed");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    for at in 0..3 {
        let (source, dest) = (format!("source-{at}"), format!("dest-{at}"));
        client.topic(&source, "{\"cap_records\":3,\"durability\":\"fsync\"}");
        client.topic(&dest, "{\"discard\":\"reject\",\"cap_records\":3}");
        client.link(&format!("router-{at}"), &source, &dest, "");
        client.add(&source, [1, 2]);
        assert_eq!(view(&mut client, &dest).head, 2, "R-30");
        client.add(&dest, [3]);
        for data in 4..=11 {
            client.add(&source, [data]);
        }
        if at > 0 {
            // Drained before the kill; of the first one only after it.
            client.topic(&dest, "{\"discard\":\"reject\",\"cap_records\":6}");
        }
        if at > 1 {
            assert_eq!(view(&mut client, &dest).count, 6, "R-36");
        }
    }
    for round in 0..4 {
        drop(client);
        server = again(&home, server, round);
        client = server.client();
        for at in 0..3 {
            let dest = format!("dest-{at}");
            if round > 0 {
                client.topic(&dest, "{\"discard\":\"reject\",\"cap_records\":6}");
            } else if at == 0 {
                let full = view(&mut client, &dest);
                assert_eq!(live(&full), [(1, 1), (2, 2), (3, 3)], "R-35 I-34 after a kill");
                continue;
            }
            let settled = view(&mut client, &dest);
            let values: Vec<u64> = live(&settled).iter().map(|(_, data)| *data).collect();
            assert_eq!(values, [1, 2, 3, 9, 10, 11], "R-36 I-68 I-62: dest-{at}, round {round}");
            // Where the gap is: five seqs, told as such from any cursor below, and once (I-25).
            let first = settled.records[3].seq;
            let read = client.ask("POST", &format!("/v0/topics/{dest}/diff"), "{\"from_seq\":3}");
            assert_eq!(read["records"].as_array().map(Vec::len), Some(3), "D-13: {read}");
            let gap = &read["tombstone"];
            assert_eq!(gap["reason"], "source_trim", "D-14 I-25 R-36: dest-{at}, round {round}: {read}");
            let ends = [&gap["gap_from"], &gap["gap_to"]].map(|end| end.as_u64().expect("a seq"));
            assert!(ends[0] > 3 && ends[1] < first, "D-12: {read}");
            assert_eq!(gap["missed_estimate"].as_u64(), Some(ends[1] + 1 - ends[0]), "§5.1");
            assert!(ends[1] + 1 - ends[0] >= 5, "R-36: an equal number: {read}");
            let read = client.ask("POST", &format!("/v0/topics/{dest}/diff"), "{\"limit\":3}");
            assert_eq!(read["records"].as_array().map(Vec::len), Some(3), "I-68: {read}");
            assert_eq!(read["tombstone"], Value::Null, "I-68 D-12: {read}");
        }
    }
    // The same as before: no gap moves, and totals stay (I-25, I-59).
    let before: Vec<View> = (0..3).map(|at| view(&mut client, &format!("dest-{at}"))).collect();
    drop(client);
    server = again(&home, server, 3);
    let mut client = server.client();
    for (at, before) in before.iter().enumerate() {
        assert_eq!(view(&mut client, &format!("dest-{at}")), *before, "I-59");
    }
    server.stop_well();
}

#[test]
fn what_a_source_forgets_leaves_its_router_no_further_than_its_end() {
    // I-66: `memory` and `ephemeral` sources lose records that were copied already. What is appended after
    // the kill is copied all the same, whatever seqs it got.
    let home = Dir::new("forgot");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    for class in ["ephemeral", "memory"] {
        client.topic(&format!("source-{class}"), &format!("{{\"durability\":\"{class}\"}}"));
        client.topic(&format!("dest-{class}"), "{\"durability\":\"fsync\"}");
        client.link(class, &format!("source-{class}"), &format!("dest-{class}"), "");
    }
    let mut number = 0;
    for round in 0..6 {
        let mut before = Vec::new();
        for class in ["ephemeral", "memory"] {
            number += 100;
            client.add(&format!("source-{class}"), number..number + 20);
            before.push(view(&mut client, &format!("dest-{class}")));
            assert_eq!(live(&before[before.len() - 1]).last().map(|last| last.1), Some(number + 19), "R-30");
        }
        drop(client);
        server = again(&home, server, round);
        client = server.client();
        for (class, before) in ["ephemeral", "memory"].iter().zip(&before) {
            // I-63: what was shown stays where it was, or goes for good.
            let after = view(&mut client, &format!("dest-{class}"));
            for (seq, data) in live(&after) {
                let shown = live(before).iter().find(|(other, _)| *other == seq).map(|(_, data)| *data);
                assert!(
                    shown.is_none_or(|shown| shown == data),
                    "{class} {seq}: {data}, not {shown:?} (I-63)"
                );
            }
            number += 100;
            client.add(&format!("source-{class}"), number..number + 3);
            let copies: Vec<u64> =
                live(&view(&mut client, &format!("dest-{class}"))).iter().map(|(_, data)| *data).collect();
            let new: Vec<u64> = copies.iter().filter(|data| **data >= number).copied().collect();
            assert_eq!(new, (number..number + 3).collect::<Vec<_>>(), "{class}, round {round} (I-66)");
        }
    }
    server.stop_well();
}

#[test]
fn a_copy_that_grows_too_large_blocks_nobody_after_a_restart_either() {
    let home = Dir::new("oversize");
    let mut server = Server::start(home.path(), &[AGE]);
    let mut client = server.client();
    client.link("once", "source", "dest", ",\"guarantee\":\"exactly_once\"");
    client.topic("dest", "{\"discard\":\"reject\",\"cap_records\":1}");
    let large = json!({"records": [{"data": 2, "meta": {"m": "m".repeat(16_384 - 8)}}]}).to_string();
    client.add("source", [1]);
    client.ask("POST", "/v0/topics/source", &large);
    client.add("source", [3]);
    assert_eq!(live(&view(&mut client, "dest")), [(1, 1)], "R-35");
    drop(client);
    server = again(&home, server, 0);
    client = server.client();
    client.topic("dest", "");
    let values: Vec<u64> = live(&view(&mut client, "dest")).iter().map(|(_, data)| *data).collect();
    assert_eq!(values, [1, 3], "R-42 R-35 I-62");
    drop(client);
    server = again(&home, server, 1);
    client = server.client();
    client.add("source", [4]);
    let values: Vec<u64> = live(&view(&mut client, "dest")).iter().map(|(_, data)| *data).collect();
    assert_eq!(values, [1, 3, 4], "R-42 I-67");
    server.stop_well();
}
