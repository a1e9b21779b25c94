use super::*;

#[test]
fn a_claim_has_defaults_and_clamps() {
    let table = [
        // rule, members, max, lease
        ("Q-10", "", 1, None),
        ("Q-10", r#","max":0"#, 1, None),
        ("Q-10", r#","max":1000"#, 1000, None),
        ("Q-10", r#","max":4294967295"#, 1000, None),
        ("J-6", r#","lease_ms":null"#, 1, None),
        ("Q-10", r#","lease_ms":0"#, 1, Some(100)),
        ("Q-10", r#","lease_ms":86400001"#, 1, Some(86_400_000)),
        ("Q-10", r#","lease_ms":5000,"lease":"x""#, 1, Some(5000)),
    ];
    for (rule, members, max, lease_ms) in table {
        let text = format!(r#"{{"node":"w"{members}}}"#);
        let expected = ClaimRequest { node: "w".into(), max, lease_ms };
        assert_eq!(parse_claim(text.as_bytes()), Ok(expected), "{rule}: {text}");
    }
    for (rule, text) in [
        ("Q-10", ""),
        ("Q-10", "{}"),
        ("J-6", r#"{"node":null}"#),
        ("J-6", r#"{"node":"w","max":null}"#),
        ("J-5", r#"{"node":"w","max":4294967296}"#),
        ("J-5", r#"{"node":"w","lease_ms":"1"}"#),
        ("J-4", r#"{"node":"w","node":"w"}"#),
        ("J-1", r#"{"node":"w"},"#),
    ] {
        assert!(parse_claim(text.as_bytes()).is_err(), "{rule}: {text}");
    }
    // Their nodes are judged after the queue was found.
    for (node, good) in [(String::new(), false), ("é".repeat(64), true), ("x".repeat(129), false)] {
        let text = format!(r#"{{"node":"{node}"}}"#);
        let claim = parse_claim(text.as_bytes()).expect("well-formed");
        assert_eq!(check_worker(&claim.node).is_ok(), good, "J-10 {node:?}");
    }
}

fn jobs(text: &str) -> Result<Vec<(u64, Fence)>, String> {
    match parse_ack(text.as_bytes()) {
        Ok(request) => {
            assert_eq!(&*request.node, "w", "{text}");
            Ok(request.jobs)
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn lease_tokens_are_two_numbers_or_match_nothing() {
    let token = LeaseToken { epoch: 0xfedc_ba98_7654_3210, counter: 0x2c };
    let mut text = Vec::new();
    token.render(&mut text);
    assert_eq!(text, b"lease_fedcba9876543210000000000000002c", "Q-13");
    let table = [
        ("Q-32", "", Some(Fence::None)),
        ("Q-32", "lease_fedcba9876543210000000000000002c", Some(Fence::Token(token))),
        ("Q-32", "lease_FEDCBA9876543210000000000000002C", Some(Fence::Token(token))),
        ("Q-32", "lease_2c", Some(Fence::Foreign)),
        ("Q-32", "lease_0fedcba9876543210000000000000002c", Some(Fence::Foreign)),
        ("Q-32", "lease_", None),
        ("Q-32", "lease_2g", None),
        ("Q-32", "LEASE_2c", None),
        ("Q-32", "2c", None),
        ("Q-32", " lease_2c", None),
        ("Q-32", "lease_2c ", None),
        ("Q-32", "lease_é", None),
    ];
    for (rule, entry, fence) in table {
        let text = format!(r#"{{"node":"w","seqs":[7],"lease_ids":["{entry}"]}}"#);
        match fence {
            Some(fence) => assert_eq!(jobs(&text), Ok(vec![(7, fence)]), "{rule}: {text}"),
            None => assert!(jobs(&text).expect_err(&text).contains("lease_ids[0]"), "{rule}: {text}"),
        }
    }
}

#[test]
fn acks_answer_in_the_order_of_the_checks() {
    let many = |count: usize| vec!["1"; count].join(",");
    let table = [
        // rule, members, the jobs or part of the message
        ("Q-30", r#""node":"w","seqs":[]"#.to_string(), Ok(0)),
        ("Q-30", r#""node":"w","seqs":[0,18446744073709551615,0]"#.into(), Ok(3)),
        ("Q-30", r#""seqs":[1],"lease_ids":[],"node":"w""#.into(), Ok(1)),
        ("Q-30", format!(r#""node":"w","seqs":[{}]"#, many(1000)), Ok(1000)),
        ("Q-30", r#""seqs":[1]"#.into(), Err("`node` is missing")),
        ("Q-30", r#""node":"w""#.into(), Err("`seqs` is missing")),
        ("J-6", r#""node":"w","seqs":null"#.into(), Err("`seqs`")),
        ("J-6", r#""node":"w","seqs":[null]"#.into(), Err("`seqs`")),
        ("J-5", r#""node":"w","seqs":[-1]"#.into(), Err("`seqs`")),
        ("J-6", r#""node":"w","seqs":[1],"lease_ids":null"#.into(), Err("`lease_ids`")),
        ("Q-32", r#""node":"w","seqs":[1],"lease_ids":[null]"#.into(), Err("`lease_ids`")),
        ("J-4", r#""node":"w","seqs":[1],"seqs":[1]"#.into(), Err("`seqs`")),
        // Each of these has the fault of the next one too.
        ("Q-32", format!(r#""node":"","seqs":[{}],"lease_ids":["","x"]"#, many(1001)), Err("lease_ids[1]")),
        ("Q-30", format!(r#""node":"","seqs":[{}],"lease_ids":[""]"#, many(1001)), Err("must not be empty")),
        ("Q-30", format!(r#""node":"w","seqs":[{}],"lease_ids":[""]"#, many(1001)), Err("names 1001 jobs")),
        ("Q-32", r#""node":"w","seqs":[1],"lease_ids":["",""]"#.into(), Err("as many")),
        ("Q-32", r#""node":"w","seqs":[],"lease_ids":[""]"#.into(), Err("as many")),
    ];
    for (rule, members, expected) in table {
        let found = jobs(&format!("{{{members}}}"));
        match expected {
            Ok(count) => assert_eq!(found.map(|jobs| jobs.len()), Ok(count), "{rule}: {members:.60}"),
            Err(part) => assert!(found.is_err_and(|error| error.contains(part)), "{rule}: {members:.60}"),
        }
    }
    let over = format!(r#"{{"node":"w","seqs":[{}]}}"#, many(1500));
    assert_eq!(parse_ack(over.as_bytes()), Err(BodyError::TooManySeqs(1500)), "§1.7");
    let fenced = r#"{"node":"w","seqs":[5,5],"lease_ids":["","lease_1"]}"#;
    assert_eq!(jobs(fenced), Ok(vec![(5, Fence::None), (5, Fence::Foreign)]), "Q-32");
}

#[test]
fn nacks_and_extends_have_a_number_of_their_own() {
    let nack = |members: &str| {
        let text = format!(r#"{{"node":"w","seqs":[1]{members}}}"#);
        parse_nack(text.as_bytes()).ok().map(|(_, delay_ms)| delay_ms)
    };
    let extend = |members: &str| {
        let text = format!(r#"{{"node":"w","seqs":[1]{members}}}"#);
        parse_extend(text.as_bytes()).ok().map(|(_, lease_ms)| lease_ms)
    };
    for (rule, members, delay_ms) in [
        ("Q-50", "", Some(0)),
        ("Q-50", r#","delay_ms":7"#, Some(7)),
        ("Q-50", r#","delay_ms":86400001"#, Some(86_400_000)),
        ("Q-50", r#","delay_ms":null"#, None),
        ("J-5", r#","delay_ms":1.0"#, None),
        ("J-3", r#","lease_ms":"x""#, Some(0)),
    ] {
        assert_eq!(nack(members), delay_ms, "{rule}: {members}");
    }
    for (rule, members, lease_ms) in [
        ("Q-55", "", None),
        ("Q-55", r#","lease_ms":null"#, None),
        ("Q-55", r#","lease_ms":1"#, Some(100)),
        ("Q-55", r#","lease_ms":30000"#, Some(30_000)),
        ("Q-55", r#","lease_ms":18446744073709551615"#, Some(86_400_000)),
        ("J-3", r#","lease_ms":500,"delay_ms":null"#, Some(500)),
    ] {
        assert_eq!(extend(members), lease_ms, "{rule}: {members}");
    }
    assert!(parse_ack(br#"{"node":"w","seqs":[1],"delay_ms":null,"lease_ms":[]}"#).is_ok(), "J-3");
}
