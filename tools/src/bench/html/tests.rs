use super::super::measure::{Latency, Part};
use super::super::report::tests::report;
use super::super::report::{Bar, Finding};
use super::*;

/// A report with something in every place, and characters that HTML has its own use for.
fn full() -> Report {
    let mut report = report(true, &[1000.0, 3000.0, 2000.0]);
    report.command = "runelog bench append --url '<&\">'".into();
    report.server_settings = "log = \"a<b&c\"\u{1b}[0m".into();
    for (index, outcome) in report.points.iter_mut().enumerate() {
        outcome.point.latency_curve = vec![(0.0, 100.0), (0.5, 500.0), (0.99, 900.0), (1.0, 5000.0)];
        outcome.point.by_second = vec![10, 20, 30];
        outcome.point.latency_us = Latency {
            p50: 501.0,
            p90: 602.0,
            p99: 7003.0,
            p999: 8004.0,
            p9999: 9005.0,
            max: 1_006_000.0,
            mean: 1.0,
        };
        outcome.point.requests_per_second = 1000.0 * (index as f64 + 1.0);
        outcome.config.rate = Some(1000.0 * (index as f64 + 1.0));
        outcome.warnings = vec!["<late>".into()];
        outcome.server.settings = "hot_bytes = <7>".into();
        let part = |name| Part {
            name,
            requests: 5,
            empty: 0,
            requests_per_second: 5.0,
            records_per_second: 6.0,
            latency_us: Latency::default(),
        };
        outcome.point.parts = vec![part("append"), part("read")];
    }
    report.points.push(report.points[0].clone());
    let finding = Finding::new("a & b", "records/s", vec![1.0, 2.0], Some(Bar::AtLeast(1.5)));
    report.findings = vec![finding.below(3.0).limited_by("server CPU")];
    report
}

#[test]
fn the_page_is_well_formed_and_stands_alone() {
    let page = page(&full());
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let tree = roxmltree::Document::parse_with_options(&page, options).expect("well-formed");
    let named = |name: &str| tree.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!(named("script") + named("link") + named("img") + named("iframe"), 0);
    let refers = |name: &str| tree.descendants().any(|node| node.has_attribute(name));
    assert!(!refers("src") && !refers("href") && !page.contains("url(") && !page.contains("@import"));
    // Percentiles, seconds, and one sweep of three rates.
    assert_eq!(named("svg"), 3);
    assert_eq!(named("polyline"), 3 + 3 + 3);
    // Every row of a table has as many cells as its head.
    for table in tree.descendants().filter(|node| node.has_tag_name("table")) {
        let width = |row: roxmltree::Node<'_, '_>| {
            let cells = row.children().filter(|cell| cell.is_element());
            cells
                .map(|cell| cell.attribute("colspan").map_or(1, |span| span.parse().expect("a number")))
                .sum::<usize>()
        };
        let rows: Vec<usize> = table.children().filter(|node| node.has_tag_name("tr")).map(width).collect();
        assert!(!rows.is_empty() && rows.iter().all(|width| *width == rows[0]), "{rows:?}");
    }
}

#[test]
fn a_person_finds_every_field() {
    let report = full();
    let page = page(&report);
    for text in [
        "Not to be quoted",
        "&lt;&amp;&quot;&gt;",
        "a&lt;b&amp;c",
        "&lt;late&gt;",
        "hot_bytes = &lt;7&gt;",
        "a &amp; b",
        "≥ 1.5",
        "50 %",
        "reached",
        "501 µs",
        "602 µs",
        "7 ms",
        "8 ms",
        "9.01 ms",
        "1.01 s",
        "By kind",
        "Every run",
        "unknown",
        &escape(&report.host.kernel),
        &escape(&report.host.cpu_model),
        &escape(&report.host.mount_options),
        &escape(&report.host.disk.power_loss_protection),
        &report.build,
        &report.taken_at,
    ] {
        assert!(page.contains(text), "{text}");
    }
    let mut report = report;
    report.quick = false;
    assert!(!super::page(&report).contains("Not to be quoted"));
}

#[test]
fn points_that_differ_in_rate_or_connections_are_one_sweep() {
    let report = full();
    let mut outcomes = report.points[..3].to_vec();
    outcomes.swap(0, 2);
    outcomes[1].config = Config { connections: 7, ..outcomes[1].config.clone() };
    let found = sweeps(&outcomes);
    assert_eq!(found.len(), 1);
    let rates: Vec<f64> = found[0].1[0].points.iter().map(|(rate, _)| *rate).collect();
    assert_eq!(rates, [1000.0, 2000.0, 3000.0]);
    outcomes[1].config.batch = 9;
    assert_eq!(sweeps(&outcomes)[0].1[0].points.len(), 2);
}

#[test]
fn sizes_that_are_swept_are_drawn_over_the_size() {
    let report = full();
    let mut outcomes = report.points[..3].to_vec();
    for (outcome, (batch, bytes)) in outcomes.iter_mut().zip([(100, 200), (1, 200), (100, 1000)]) {
        outcome.config = Config { batch, record_bytes: bytes, rate: None, ..outcome.config.clone() };
    }
    let of = |name: &str| {
        let size = SIZES.iter().find(|size| size.name == name).expect("one of them");
        size.lines(&outcomes, |outcome| outcome.point.records_per_second)
    };
    let batches = of("records in a request");
    let sizes: Vec<f64> = batches[0].points.iter().map(|at| at.0).collect();
    assert_eq!((batches.len(), sizes), (1, vec![1.0, 100.0]), "in order, and the other record apart");
    assert!(batches[0].name.contains("n x 200 B"), "{}", batches[0].name);
    assert_eq!(of("bytes of a record")[0].points.len(), 2);
    assert!(of("connections").is_empty() && of("topics").is_empty() && of("readers").is_empty());
    let mut out = String::new();
    charts(&mut out, &outcomes);
    for title in ["Records/s over records in a request", "p99 over bytes of a record"] {
        assert!(out.contains(title), "{title}");
    }
}

#[test]
fn numbers_and_times_are_shown_for_people() {
    assert_eq!(number(1_234_567.8), "1\u{a0}234\u{a0}568");
    assert_eq!((&*number(0.0), &*number(3.10), &*number(999.6)), ("0", "3.1", "1\u{a0}000"));
    assert_eq!((&*time(550.0), &*time(1500.0), &*time(2e6)), ("550 µs", "1.5 ms", "2 s"));
    assert_eq!((&*percentile(0.9999), &*percentile(0.5), &*percentile(0.0)), ("99.99", "50", "0"));
}
