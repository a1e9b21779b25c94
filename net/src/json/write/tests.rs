use super::*;

/// What a body comes to, in words: the records as data|meta|tag|node, or the refusal.
fn outcome(body: &[u8]) -> String {
    let mut scratch = WriteScratch::default();
    let head = match parse_write(body, &mut scratch) {
        Ok(head) => head,
        Err(error) => return kind(&error),
    };
    if let Err(error) = head.check_limits(None) {
        return kind(&error);
    }
    let show = |span: Span| match span.of(body, &scratch.side) {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "-".into(),
    };
    let records: Vec<String> = scratch
        .records
        .iter()
        .map(|r| format!("{}|{}|{}|{}", show(r.data), show(r.meta), show(r.tag), show(r.node)))
        .collect();
    records.join(" ; ")
}

fn kind(error: &BodyError) -> String {
    match error {
        BodyError::Invalid(message) => {
            assert!(!message.is_empty());
            "invalid".into()
        }
        BodyError::BatchTooLarge => "batch".into(),
        BodyError::RecordTooLarge(index) => format!("record {index}"),
        BodyError::TooManySeqs(_) => unreachable!("a write has no seqs"),
    }
}

#[test]
fn bodies_are_split_or_refused_by_the_rules() {
    let table: &[(&str, &str, &str)] = &[
        ("W-2", r#"{"records":[{"data":1},{"data":2}]}"#, "1|-|-|- ; 2|-|-|-"),
        ("W-6", r#"{"records":[{"tag":"t"}]}"#, "invalid"),
        ("W-6", r#"{"records":[{}]}"#, "invalid"),
        ("W-7", r#"{"return_seqs":"no","records":[{"data":1}]}"#, "1|-|-|-"),
        ("W-11", r#"{"records":[]}"#, "invalid"),
        ("W-11", r#"{}"#, "invalid"),
        ("J-1", r#"{"records":[{"data":1}]}x"#, "invalid"),
        ("J-1", r#"{"records":[{"data":1},]}"#, "invalid"),
        ("J-1", r#"{"records":[{"data":1}]"#, "invalid"),
        ("J-1", "", "invalid"),
        ("J-2", "null", "invalid"),
        ("J-2", r#"[[{"data":1}]]"#, "invalid"),
        ("J-2", r#"{"records":{"data":1}}"#, "invalid"),
        ("J-2", r#"{"records":[[1]]}"#, "invalid"),
        ("J-2", r#"{"records":[1]}"#, "invalid"),
        ("J-3", r#"{"x":{"records":1},"records":[{"x":[{}],"data":1,"":0}]}"#, "1|-|-|-"),
        ("J-3", r#"{"x":[1,],"records":[{"data":1}]}"#, "invalid"),
        ("J-3", r#"{"records":[{"data":1,"x":01}]}"#, "invalid"),
        ("J-3", r#"{"x":1,"x":2,"records":[{"y":1,"y":2,"data":1}]}"#, "1|-|-|-"),
        ("J-4", r#"{"records":[{"data":1}],"records":[{"data":1}]}"#, "invalid"),
        ("J-4", r#"{"records":[{"data":1,"data":1}]}"#, "invalid"),
        ("J-4", r#"{"records":[{"data":1,"\u0064ata":1}]}"#, "invalid"),
        ("J-4", r#"{"records":[{"data":1,"tag":null,"tag":null}]}"#, "invalid"),
        ("J-4", r#"{"records":[{"data":1,"node":"a","node":"a"}]}"#, "invalid"),
        ("J-4", r#"{"records":[{"data":1,"meta":{},"meta":{}}]}"#, "invalid"),
        ("J-4", r#"{"node":null,"node":null,"records":[{"data":1}]}"#, "invalid"),
        ("J-4", r#"{"create":true,"create":true,"records":[{"data":1}]}"#, "invalid"),
        ("J-4", r#"{"config":{"ttl_ms":1,"ttl_ms":1},"records":[{"data":1}]}"#, "invalid"),
        (
            "J-4",
            r#"{"records":[{"data":{"a":1,"a":2},"meta":{"b":1,"b":2}}]}"#,
            r#"{"a":1,"a":2}|{"b":1,"b":2}|-|-"#,
        ),
        (
            "J-6",
            r#"{"node":null,"idempotency_key":null,"create":null,"config":null,
                "records":[{"data":null,"tag":null,"node":null,"meta":null}]}"#,
            "null|-|-|-",
        ),
        ("J-6", r#"{"records":null}"#, "invalid"),
        ("J-6", r#"{"records":[null]}"#, "invalid"),
        ("J-6", r#"{"disable_backpressure":null,"records":[{"data":1}]}"#, "invalid"),
        ("J-6", r#"{"node":nul,"records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"create":"true","records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"create":1,"records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"disable_backpressure":0,"records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"disable_backpressure":false,"create":false,"records":[{"data":1}]}"#, "1|-|-|-"),
        ("J-7", r#"{"node":7,"records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"idempotency_key":7,"records":[{"data":1}]}"#, "invalid"),
        ("J-7", r#"{"records":[{"data":1,"tag":7}]}"#, "invalid"),
        ("J-7", r#"{"records":[{"data":1,"node":["n"]}]}"#, "invalid"),
        ("J-8", r#"{"records":[{"data":1,"tag":"\ud800"}]}"#, "invalid"),
        ("J-8", r#"{"records":[{"data":1,"tag":"a\u0000b"}]}"#, "1|-|a\0b|-"),
        ("J-8", r#"{"records":[{"data":1e400}]}"#, "invalid"),
        (
            "J-20",
            r#"{"records":[{"data":null,"meta":0},{"data":"","meta":[]}]}"#,
            r#"null|0|-|- ; ""|[]|-|-"#,
        ),
        (
            "J-21",
            "{ \"records\" : [ { \"meta\" : { \"k\" : 1.50 } ,\n\"data\" :\t[ 1 , \"\\u00e9\" ] , \"tag\" : \"t\" } ] }",
            "[ 1 , \"\\u00e9\" ]|{ \"k\" : 1.50 }|t|-",
        ),
        (
            "J-22",
            r#"{"records":[{"data":123456789012345678901234567890}]}"#,
            "123456789012345678901234567890|-|-|-",
        ),
        ("W-24", r#"{"config":{"type":"que"},"records":[{"data":1}]}"#, "invalid"),
        ("W-24", r#"{"config":[],"records":[{"data":1}]}"#, "invalid"),
        ("W-24", r#"{"config":{"dead_letter":"not a name"},"records":[{"data":1}]}"#, "1|-|-|-"),
        (
            "W-35",
            r#"{"node":"n","records":[{"data":1},{"data":2,"node":"m"},{"data":3,"node":""}]}"#,
            "1|-|-|n ; 2|-|-|m ; 3|-|-|",
        ),
        (
            "W-35",
            r#"{"records":[{"data":1},{"data":2,"node":null,"tag":""}],"node":"\u006e"}"#,
            "1|-|-|n ; 2|-||n",
        ),
        (
            "J-3",
            r#"{"recor\u0064s":[{"d\u0061ta":1,"a name longer than twenty-four \u0062ytes":2}]}"#,
            "1|-|-|-",
        ),
        (
            "J-8",
            r#"{"records":[{"data":1,"tag":"\"\\\/\b\f\n\r\té\u00e9\u20ac\ud83d\ude00x"}]}"#,
            "1|-|\"\\/\u{8}\u{c}\n\r\téé€😀x|-",
        ),
    ];
    for (rule, body, expected) in table {
        assert_eq!(outcome(body.as_bytes()), *expected, "{rule}: {body}");
    }
}

#[test]
fn limits_are_judged_in_their_order() {
    let tag = |bytes: usize| format!(r#"{{"data":0,"tag":"{}"}}"#, "t".repeat(bytes));
    let node = |bytes: usize| format!(r#"{{"data":0,"node":"{}"}}"#, "n".repeat(bytes));
    let data = |bytes: usize| format!(r#"{{"data":"{}"}}"#, "d".repeat(bytes - 2));
    let meta = |bytes: usize| format!(r#"{{"data":0,"meta":"{}"}}"#, "m".repeat(bytes - 2));
    let members = |count: usize| {
        let list: Vec<String> = (0..count).map(|n| format!(r#""{}":{{"x":[1,2]}}"#, n % 40)).collect();
        format!(r#"{{"meta":{{{}}},"data":0}}"#, list.join(","))
    };
    let both = |data: usize, meta: usize| {
        format!(r#"{{"meta":"{}","data":"{}"}}"#, "m".repeat(meta - 2), "d".repeat(data - 2))
    };
    let many = |count: usize| vec![r#"{"data":0}"#; count].join(",");
    let wide = "é".repeat(128);
    let key = |bytes: usize| format!(r#""idempotency_key":"{}","#, "k".repeat(bytes));
    let default = |bytes: usize| format!(r#""node":"{}","#, "n".repeat(bytes));
    let mebi = 1 << 20;
    let table: Vec<(&str, String, String, &str)> = vec![
        // rule, members before the records, records, outcome
        ("W-12", String::new(), many(10_000), "taken"),
        ("W-12", String::new(), many(10_001), "batch"),
        ("W-12", key(257), many(10_001), "batch"),
        ("W-12", String::new(), format!("{},{}", data(mebi + 1), many(10_000)), "batch"),
        ("W-12", String::new(), format!("{},{{}}", many(10_000)), "invalid"),
        ("W-12", String::new(), format!("{},{{\"data\":1,\"tag\":0}}", many(10_001)), "invalid"),
        ("W-13", key(256), many(1), "taken"),
        ("W-13", key(257), many(1), "invalid"),
        ("W-13", key(257), data(mebi + 1), "invalid"),
        ("W-14", String::new(), tag(256), "taken"),
        ("W-14", String::new(), tag(257), "invalid"),
        ("W-14", String::new(), node(128), "taken"),
        ("W-14", String::new(), node(129), "invalid"),
        ("J-10", String::new(), format!(r#"{{"data":0,"tag":"{wide}"}}"#), "taken"),
        ("J-10", String::new(), format!(r#"{{"data":0,"tag":"{wide}t"}}"#), "invalid"),
        ("J-10", String::new(), format!(r#"{{"data":0,"tag":"{}"}}"#, r"\u0041".repeat(256)), "taken"),
        ("J-10", String::new(), format!(r#"{{"data":0,"tag":"{}"}}"#, r"\u0041".repeat(257)), "invalid"),
        ("W-15", String::new(), meta(16_384), "taken"),
        ("W-15", String::new(), meta(16_385), "invalid"),
        ("W-15", String::new(), members(64), "taken"),
        ("W-15", String::new(), members(65), "invalid"),
        ("W-16", String::new(), data(mebi), "taken"),
        ("W-16", String::new(), data(mebi + 1), "record 0"),
        ("W-16", String::new(), both(mebi - 100, 100), "taken"),
        ("W-16", String::new(), both(mebi - 100, 101), "record 0"),
        ("W-17", String::new(), format!("{},{}", tag(257), data(mebi + 1)), "invalid"),
        ("W-17", String::new(), format!("{},{}", data(mebi + 1), tag(257)), "record 0"),
        ("W-17", String::new(), format!("{},{}", many(3), data(mebi + 1)), "record 3"),
        ("W-17", String::new(), both(mebi, 16_385), "invalid"),
        ("W-17", String::new(), format!("{},x", data(mebi + 1)), "invalid"),
        ("W-35", default(129), many(1), "invalid"),
        ("W-35", default(128), many(1), "taken"),
        ("W-35", default(129), node(3), "taken"),
        ("W-35", default(129), data(mebi + 1), "invalid"),
        ("W-35", default(129), format!("{},{}", many(1), data(mebi + 1)), "invalid"),
        (
            "W-35",
            default(129),
            format!("{},{}", data(mebi + 1).replace("{\"data", "{\"node\":\"\",\"data"), many(1)),
            "record 0",
        ),
    ];
    for (rule, before, records, expected) in &table {
        for body in [
            format!("{{{before}\"records\":[{records}]}}"),
            format!("{{\"records\":[{records}],{}}}", before.trim_end_matches(',')).replace(",}", "}"),
        ] {
            let mut found = outcome(body.as_bytes());
            if found.contains('|') {
                found = "taken".into();
            }
            assert_eq!(found, *expected, "{rule}: {body:.60}… with {records:.60}…");
        }
    }
}

#[test]
fn w_13_judges_the_key_in_force() {
    let long = [b'k'; 257];
    for (rule, body_key, header, taken) in [
        ("U-1", "\"short\"", Some(&long[..]), true),
        ("U-1", "\"\"", Some(&long[..]), true),
        ("U-2", "null", Some(&long[..]), false),
        ("U-2", "null", Some(&long[..256]), true),
        ("U-2", "null", None, true),
    ] {
        let body = format!(r#"{{"idempotency_key":{body_key},"records":[{{"data":1}}]}}"#);
        let head = parse_write(body.as_bytes(), &mut WriteScratch::default()).expect(rule);
        assert_eq!(head.check_limits(header).is_ok(), taken, "{rule}: {body_key}");
        assert_eq!(head.idempotency_key.is_present(), body_key != "null", "{rule}: {body_key}");
    }
}

#[test]
fn w_12_bounds_what_is_kept() {
    let mut scratch = WriteScratch::default();
    let record = r#"{"data":0,"tag":"\u0041"}"#;
    let body = format!(r#"{{"records":[{}]}}"#, vec![record; 50_000].join(","));
    let head = parse_write(body.as_bytes(), &mut scratch).expect("W-12 is a limit, not a type");
    assert_eq!(head.check_limits(None), Err(BodyError::BatchTooLarge));
    assert_eq!((scratch.records.len(), scratch.side.len()), (10_000, 10_000));
}

#[test]
fn j_9_leaves_124_levels_to_a_payload() {
    for member in ["data", "meta"] {
        for levels in [123, 124, 125] {
            let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let object = format!("{}0{}", "{\"a\":".repeat(levels), "}".repeat(levels));
            for value in [value, object] {
                let other = if member == "data" { "" } else { "\"data\":1," };
                let body = format!(r#"{{"records":[{{{other}"{member}":{value}}}]}}"#);
                let taken = outcome(body.as_bytes()).contains('|');
                assert_eq!(taken, levels <= 124, "J-9: {levels} levels in {member}: {value:.9}");
            }
        }
    }
}

#[test]
fn the_head_keeps_create_and_config() {
    let body = br#"{"records":[{"data":1}],"create":false,"config":{"type":"queue","x":[1]}}"#;
    let mut scratch = WriteScratch::default();
    let head = parse_write(body, &mut scratch).expect("legal");
    assert_eq!(head.create, Some(false));
    assert_eq!(head.config.expect("given").kind, Some(runelog_engine::config::TopicType::Queue));
    // The scratch forgets the request before.
    parse_write(br#"{"records":[{"data":2}]}"#, &mut scratch).expect("legal");
    assert_eq!(scratch.batch(b"").records.len(), 1);
}
