//! `hmmap trace`.

use std::{
    fs,
    process::{self, ExitCode},
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use hmmap::Cause;
use hmmap_watch::{
    HEAT_MAP_VARIABLE, HeatMap, Log, TIMELINE_VARIABLE, TRACE_VARIABLE, Watch, WatchOptions,
};

use crate::{args::TraceArgs, demo::Demo, table, words};

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    match args.program.split_first() {
        Some((program, arguments)) => {
            let mut command = process::Command::new(program);
            command.args(arguments);
            trace_program(args, command)
        }
        None => trace_demo(args).map(|()| ExitCode::SUCCESS),
    }
}

fn trace_demo(args: &TraceArgs) -> anyhow::Result<()> {
    let mut demo = Demo::new(args.device.as_deref())?;
    let watch = Watch::start(demo.runtime(), WatchOptions::default())?;
    for _ in 0..args.rounds {
        demo.round()?;
    }
    let log = watch.finish();
    log.save_trace(&args.out)?;
    if let Some(file) = &args.heatmap {
        log.draw_heat_map(file, HeatMap::default())?;
    }
    if let Some(file) = &args.timeline {
        log.draw_timeline(file)?;
    }
    print!("{}", moved(&log));
    say_where(args);
    Ok(())
}

/// Runs the program, which writes the files itself.
fn trace_program(args: &TraceArgs, mut command: process::Command) -> anyhow::Result<ExitCode> {
    // The program may change its folder.
    command.env(TRACE_VARIABLE, std::path::absolute(&args.out)?);
    if let Some(file) = &args.heatmap {
        command.env(HEAT_MAP_VARIABLE, std::path::absolute(file)?);
    }
    if let Some(file) = &args.timeline {
        command.env(TIMELINE_VARIABLE, std::path::absolute(file)?);
    }
    let begun = SystemTime::now();
    let name = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("cannot run {}", name.display()))?;
    let written = fs::metadata(&args.out).and_then(|found| found.modified()).ok();
    // A file's time may lag behind the clock by a tick of the kernel.
    let is_new =
        written.is_some_and(|written| written + std::time::Duration::from_millis(20) >= begun);
    if !is_new {
        bail!(
            "{} has written no trace ({status}): it has to call `hmmap::watch::from_environment(&mem)` once, behind the making of its \
             runtime (feature `watch`), and to end by itself",
            name.display()
        );
    }
    say_where(args);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn say_where(args: &TraceArgs) {
    println!("trace: {} (https://ui.perfetto.dev opens it)", args.out.display());
    for (what, file) in [("timeline", &args.timeline), ("heat map", &args.heatmap)] {
        if let Some(file) = file {
            println!("{what}: {}", file.display());
        }
    }
}

/// What was copied and filled, by cause.
fn moved(log: &Log) -> String {
    let mut table =
        table::plain(["cause", "to devices", "to the host", "zeroed", "copies and fills"]);
    let sums = log.moved();
    for cause in Cause::ALL {
        let Some(moved) = sums.get(&cause) else { continue };
        let bytes = [moved.to_device_bytes, moved.to_host_bytes, moved.zeroed_bytes];
        let [to_device, to_host, zeroed] = bytes.map(words::bytes);
        table.add_row([cause.to_string(), to_device, to_host, zeroed, moved.regions.to_string()]);
    }
    let mut text = format!("{table}\n{} events", log.events.len());
    if log.dropped_events > 0 {
        text.push_str(&format!(", {} more were dropped", log.dropped_events));
    }
    text.push('\n');
    text
}
