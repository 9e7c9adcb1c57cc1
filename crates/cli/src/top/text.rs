//! One reading as plain text.

use hmmap_watch::Reading;

use crate::{table, words};

pub(super) fn of(reading: &Reading) -> String {
    let mut text = format!(
        "{} (process {}): {} launches, {} blocks evicted, {} vectors through windows, {} answers of policies ignored\n\n",
        reading.program,
        reading.process,
        reading.launches,
        reading.evicted_blocks,
        reading.windowed,
        reading.ignored_victims
    );
    let mut nodes = table::plain(["node", "", "current", "taken", "budget"]);
    for node in &reading.nodes {
        let limit = node.limit_bytes.map_or_else(|| "none".to_owned(), words::bytes);
        let [valid, used] = [node.valid_bytes, node.used_bytes].map(words::bytes);
        nodes.add_row([&node.node, &node.name, &valid, &used, &limit]);
    }
    let mut causes = table::plain(["cause", "to devices", "to the host", "between", "zeroed"]);
    for cause in &reading.causes {
        let moved =
            [cause.to_device_bytes, cause.to_host_bytes, cause.between_bytes, cause.zeroed_bytes];
        let mut row = vec![cause.cause.clone()];
        row.extend(moved.map(words::bytes));
        causes.add_row(row);
    }
    let mut vectors =
        table::plain(["vector", "size", "to devices", "to the host", "last launch", "current on"]);
    for vector in &reading.vectors {
        let name = name(vector);
        let sizes = [vector.len_bytes, vector.to_device_bytes, vector.to_host_bytes];
        let [size, to_device, to_host] = sizes.map(words::bytes);
        let valid = vector.valid_bytes.iter();
        let valid: Vec<_> =
            valid.map(|(node, bytes)| format!("{node} {}", words::bytes(*bytes))).collect();
        let last = vector.last_launch.to_string();
        vectors.add_row([name, size, to_device, to_host, last, valid.join(", ")]);
    }
    text.push_str(&format!("{nodes}\n\n{causes}\n\n{vectors}\n"));
    text
}

/// What a vector is called.
pub(super) fn name(vector: &hmmap_watch::VectorReading) -> String {
    vector.name.clone().unwrap_or_else(|| format!("vector {}", vector.vector))
}
