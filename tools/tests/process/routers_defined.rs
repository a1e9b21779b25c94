//! SIGKILL while routers and their topics are created and deleted: what was acknowledged is in force
//! (I-50, TD-5), and whatever was on its way, no router is without its ends and none is half made.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ask::{Ask, view};
use crate::client::Client;
use crate::random::Random;
use crate::server::{Dir, Server};

/// What one client made, with nobody else at its names: filters of its routers, none where there is none.
#[derive(Default)]
struct Made {
    /// As acknowledged.
    routers: BTreeMap<u64, Option<String>>,
    /// The operation without an answer: a router and what it will be.
    pending: Option<(u64, Option<String>)>,
    /// The topic whose deletion has no answer.
    dropping: Option<u64>,
    numbers: u64,
}

/// Router `n` of client `c` goes from topic `c-n` to `c-(n+1)`, so that a topic is an end of two.
fn names(client: u64, router: u64) -> [String; 3] {
    [format!("r-{client}-{router}"), format!("t-{client}-{router}"), format!("t-{client}-{}", router + 1)]
}

fn work(address: std::net::SocketAddr, number: u64, made: &Mutex<Made>, mut random: Random) {
    let Ok(mut client) = Client::open(address) else { return };
    loop {
        let which = random.below(4);
        let [router, source, dest] = names(number, which);
        let kind = random.below(6);
        let change = {
            let made = &mut *made.lock().expect("no client panicked");
            made.numbers += 1;
            match kind {
                0..3 => made.pending = Some((which, Some(format!("f{}", made.numbers)))),
                3 => made.pending = Some((which, None)),
                4 => made.dropping = Some(which),
                _ => {}
            }
            made.pending.clone()
        };
        let reply = match (kind, &change) {
            (0..3, Some((_, Some(filter)))) => {
                let body = json!({"source": source, "dest": dest, "filter": filter});
                client.call("PUT", &format!("/v0/routers/{router}"), &body.to_string())
            }
            (3, _) => client.call("DELETE", &format!("/v0/routers/{router}"), ""),
            (4, _) => client.call("DELETE", &format!("/v0/topics/{source}"), ""),
            _ => client.call(
                "POST",
                &format!("/v0/topics/{source}"),
                "{\"records\":[{\"data\":1,\"tag\":\"x\"}]}",
            ),
        };
        let Ok(reply) = reply else { return };
        assert!(matches!(reply.status, 200 | 201), "{reply}");
        let made = &mut *made.lock().expect("no client panicked");
        if let Some((which, what)) = made.pending.take() {
            made.routers.insert(which, what);
        }
        if made.dropping.take().is_some() {
            // The routers at either side of the topic went with it (TD-1).
            made.routers.insert(which, None);
            if which > 0 {
                made.routers.insert(which - 1, None);
            }
        }
    }
}

#[test]
fn definitions_are_whole_after_every_kill() {
    let home = Dir::new("defined-load");
    let seed = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut made: Vec<Mutex<Made>> = (0..4).map(|_| Mutex::default()).collect();
    let mut server = Server::start(home.path(), &[]);
    for round in 0..8 {
        let address = server.address;
        std::thread::scope(|scope| {
            for (number, made) in made.iter().enumerate() {
                let random = Random(random.next());
                scope.spawn(move || work(address, number as u64, made, random));
            }
            std::thread::sleep(Duration::from_millis(30 + random.below(150)));
            server.kill();
        });
        let shards = (1 + random.below(3)).to_string();
        server = Server::start(home.path(), &[("RUNELOG_SHARDS", shards.as_str())]);
        let mut client = server.client();
        let list = client.ask("GET", "/v0/routers?page_size=1000", "");
        let there: BTreeMap<String, Value> = list["routers"]
            .as_array()
            .expect("R-25")
            .iter()
            .map(|router| (router["router"].as_str().expect("a name").to_owned(), router.clone()))
            .collect();
        println!("round {round}: {} routers", there.len());
        for (router, entry) in &there {
            for end in ["source", "dest"] {
                let topic = entry[end].as_str().expect("a name");
                assert_eq!(
                    client.status("GET", &format!("/v0/topics/{topic}"), ""),
                    200,
                    "{router}, round {round}: without its {end} (R-22 TD-5)"
                );
            }
        }
        for (number, made) in made.iter_mut().enumerate() {
            let made = made.get_mut().expect("no client panicked");
            let (pending, dropping) = (made.pending.take(), made.dropping.take());
            for which in 0..4 {
                let [router, source, dest] = names(number as u64, which);
                let now = there.contains_key(&router).then(|| {
                    let all = client.ask("GET", &format!("/v0/routers/{router}"), "");
                    assert_eq!((&all["source"], &all["dest"]), (&json!(source), &json!(dest)), "R-3");
                    all["filter"][2].as_str().expect("a filter").to_owned()
                });
                let acknowledged = made.routers.get(&which).cloned().flatten();
                let mut may_be = vec![acknowledged];
                if let Some((_, what)) = pending.as_ref().filter(|(other, _)| *other == which) {
                    may_be.push(what.clone());
                }
                if dropping.is_some_and(|topic| topic == which || topic == which + 1) {
                    may_be.push(None);
                }
                assert!(
                    may_be.contains(&now),
                    "{router}, round {round}: {now:?}, not of {may_be:?} (I-50 TD-5)"
                );
                made.routers.insert(which, now);
            }
        }
        // What is in force works: a record that passes is copied.
        for (router, entry) in &there {
            let filter = client.ask("GET", &format!("/v0/routers/{router}"), "")["filter"][2].clone();
            let (source, dest) =
                (entry["source"].as_str().expect("a name"), entry["dest"].as_str().expect("a name"));
            let before = view(&mut client, dest).count;
            let body = json!({"records": [{"data": 2, "tag": filter}]}).to_string();
            client.ask("POST", &format!("/v0/topics/{source}"), &body);
            assert_eq!(view(&mut client, dest).count, before + 1, "{router}, round {round} (R-30 I-62)");
        }
    }
    server.stop_well();
}
