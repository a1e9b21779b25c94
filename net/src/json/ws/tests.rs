use super::*;

/// What became of a message: `invalid_json`, or the echoed id with the action or the refusal.
fn command(text: &str) -> Result<(String, Result<Action, String>), String> {
    let mut scratch = WriteScratch::default();
    let id = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("part of a text");
    match parse_command(text.as_bytes(), &mut scratch) {
        Ok(command) => Ok((id(command.request_id), Ok(command.action))),
        Err(CommandError::Refused { request_id, error }) => Ok((id(request_id), Err(error.to_string()))),
        Err(CommandError::InvalidJson(error)) => Err(error.to_string()),
    }
}

fn action(text: &str) -> Action {
    command(text).expect(text).1.expect(text)
}

#[test]
fn request_ids_are_echoed_byte_for_byte() {
    for (rule, id, echoed) in [
        ("WS-8", r#""s1""#, r#""s1""#),
        ("WS-8", "9", "9"),
        ("WS-8", "1.50e0", "1.50e0"),
        ("WS-8", r#"{ "a" : [1, "é\u0041"] }"#, r#"{ "a" : [1, "é\u0041"] }"#),
        ("J-6", "null", "null"),
        ("WS-8", " true ", "true"),
        ("WS-8", "123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        let text = format!(r#"{{"request_id":{id},"op":"ping"}}"#);
        assert_eq!(command(&text).expect(&text).0, echoed, "{rule}");
    }
    assert_eq!(command(r#"{"op":"p\u0069ng"}"#).expect("a ping").0, "null", "WS-8: absent");
}

#[test]
fn what_cannot_be_read_is_invalid_json() {
    for (rule, text) in [
        ("WS-20", ""),
        ("WS-20", "{"),
        ("WS-20", r#""ping""#),
        ("WS-20", "{}"),
        ("WS-20", r#"{"request_id":1}"#),
        ("WS-20", r#"{"op":"Ping"}"#),
        ("WS-20", r#"{"op":"pings","request_id":1}"#),
        ("WS-20", r#"{"op":null}"#),
        ("J-4", r#"{"op":"ping","op":"ping"}"#),
        ("J-4", r#"{"op":"ping","request_id":1,"request_id":1}"#),
        ("WS-20", r#"{"op":"subscribe","topic":1}"#),
        ("WS-20", r#"{"op":"subscribe","topic":"a","from_seq":"1"}"#),
        ("WS-20", r#"{"op":"subscribe","topic":"a","tail":null}"#),
        ("WS-20", r#"{"op":"subscribe","topic":"a","lenient":1}"#),
        ("WS-20", r#"{"op":"subscribe","topics":null}"#),
        ("WS-20", r#"{"op":"subscribe","topics":["a"]}"#),
        ("WS-20", r#"{"op":"subscribe","topics":{"a":{"tail":0}}}"#),
        ("J-4", r#"{"op":"subscribe","topic":"a","limit":1,"limit":1}"#),
        ("WS-20", r#"{"op":"unsubscribe","topics":{"a":{}}}"#),
        ("WS-20", r#"{"op":"unsubscribe","topics":[null]}"#),
        ("WS-20", r#"{"op":"unsubscribe","topic":["a"]}"#),
        ("WS-20", r#"{"op":"publish","records":[]}"#),
        ("WS-20", r#"{"op":"publish","topic":null,"records":[]}"#),
        ("WS-20", r#"{"op":"publish","topic":"a"}"#),
        ("WS-20", r#"{"op":"publish","topic":"a","records":[{}]}"#),
        ("WS-20", r#"{"op":"publish","topic":"a","records":[],"return_seqs":null}"#),
        ("WS-20", r#"{"op":"publish","topic":"a","records":[],"config":{"ttl_ms":"1"}}"#),
        ("WS-20", r#"{"op":"publish","topic":"a","records":[],"create":1}"#),
        ("J-9", &format!(r#"{{"op":"ping","x":{}1{}}}"#, "[".repeat(127), "]".repeat(127))),
    ] {
        assert!(command(text).is_err(), "{rule}: {text}");
    }
    let message = command(r#"{"op":"publish","records":[],"topic":7}"#).expect_err("a number");
    assert!(message.contains("`topic`") && message.contains("byte 37"), "{message}");
    for (rule, text) in [
        ("J-3", r#"{"op":"ping","topics":1,"limit":"x","records":null,"topic":5}"#),
        ("J-3", r#"{"op":"unsubscribe","topic":"a","limit":"x"}"#),
        ("W-7", r#"{"op":"publish","topic":"a","records":[],"limit":"x","tail":3}"#),
        ("J-3", r#"{"op":"subscribe","topic":"a","records":1,"return_seqs":"x"}"#),
    ] {
        assert!(command(text).is_ok_and(|(_, action)| action.is_ok()), "{rule}: {text}");
    }
}

#[test]
fn naming_nothing_is_refused_with_its_request_id() {
    let many = |count| vec![r#""a""#; count].join(",");
    let map = (0..256).map(|index| format!(r#""t{index}":{{}}"#)).collect::<Vec<_>>().join(",");
    for (rule, members) in [
        ("WS-21", r#""op":"subscribe""#.to_string()),
        ("WS-21", r#""op":"subscribe","topic":null,"topics":{}"#.into()),
        ("WS-21", r#""op":"unsubscribe""#.into()),
        ("WS-21", r#""op":"unsubscribe","topics":[],"topic":null"#.into()),
        ("L-9", format!(r#""op":"subscribe","topics":{{{map}}},"topic":"one more""#)),
        ("WS-21", format!(r#""op":"unsubscribe","topics":[{}]"#, many(UNSUBSCRIBE_NAMES_MAX + 1))),
    ] {
        let (id, action) = command(&format!(r#"{{{members},"request_id":[7]}}"#)).expect("readable");
        assert!(id == "[7]" && action.is_err(), "{rule}: {members:.60}");
    }
    let most = format!(r#"{{"op":"subscribe","topics":{{{map}}},"topic":"t9"}}"#);
    assert!(matches!(action(&most), Action::Subscribe(request) if request.topics.len() == 256), "L-9");
}

#[test]
fn a_subscription_has_defaults_and_the_map_wins() {
    let subscribe = |members: &str| {
        let Action::Subscribe(request) = action(&format!(r#"{{"op":"subscribe"{members}}}"#)) else {
            panic!("{members} is a subscribe")
        };
        request
    };
    let plain = subscribe(r#","topic":"a""#);
    assert_eq!(plain.delivery, Delivery::plain(1000, 1_048_576), "§9");
    assert_eq!(plain.topics, BTreeMap::from([("a".into(), Start::default())]), "§9");
    assert!(!plain.lenient, "§9");
    let full = subscribe(
        r#","topic":"a","topics":{"a":{"from_seq":3},"b":{"tail":true}},"from_seq":9,"tail":true,"limit":0,
            "max_batch_bytes":0,"include_data":false,"include_tags":true,"include_meta":false,"lenient":true"#,
    );
    let starts =
        [("a".into(), Start { from_seq: 3, tail: false }), ("b".into(), Start { from_seq: 0, tail: true })];
    assert_eq!(full.topics, BTreeMap::from(starts), "WS-23");
    let shape = (full.delivery.limit, full.delivery.max_batch_bytes, full.delivery.include_data);
    assert_eq!(shape, (256, 1_048_576, false), "WS-30: as in a diff");
    assert!(full.delivery.include_tags && !full.delivery.include_meta && full.lenient);
    let one = subscribe(r#","topic":"a","from_seq":9,"tail":true"#);
    assert_eq!(one.topics["a"], Start { from_seq: 9, tail: true }, "§9");
}

#[test]
fn unsubscribed_names_keep_their_order() {
    let text = r#"{"op":"unsubscribe","topic":"z","topics":["b","a","b"]}"#;
    let Action::Unsubscribe(names) = action(text) else { panic!("{text}") };
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "a", "b", "z"], "§9");
}

#[test]
fn a_publish_is_a_write_with_its_limits() {
    let mut scratch = WriteScratch::default();
    let text = br#"{"op":"publish","node":"n","topic":"le\u0064ger","return_seqs":false,
        "records":[{"data":{"op":1, "topic":2}},{"data":null,"tag":"t"}],"config":{},"create":true}"#;
    let Ok(Command { action: Action::Publish(publish), .. }) = parse_command(text, &mut scratch) else {
        panic!("a publish")
    };
    assert_eq!((&*publish.topic, publish.return_seqs), ("ledger", false), "§9");
    assert!(publish.write.config.is_some() && publish.write.create == Some(true), "WS-22");
    assert_eq!(publish.write.check_limits(None), Ok(()));
    assert_eq!(scratch.batch(text).records.len(), 2, "WS-35");

    let long = "x".repeat(257);
    for (rule, members) in [
        ("W-11", r#""records":[]"#.to_string()),
        ("W-13", format!(r#""records":[{{"data":1}}],"idempotency_key":"{long}""#)),
        ("W-14", format!(r#""records":[{{"data":1,"tag":"{long}"}}]"#)),
    ] {
        let text = format!(r#"{{"op":"publish","topic":"a",{members}}}"#);
        let Action::Publish(publish) = action(&text) else { panic!("{text}") };
        assert!(publish.write.check_limits(None).is_err(), "{rule}, WS-21: not invalid_json");
    }
}
