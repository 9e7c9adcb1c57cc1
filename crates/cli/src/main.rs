//! The `hmmap` command: what this machine has, and how fast it is.
//!
//! ```text
//! hmmap info [--json]                     devices, what was tried on them, what is missing and what would help
//! hmmap topo [--root DIR] [--json]        the PCI tree; which device can reach another's memory, and whether it pays
//! hmmap topo --probe [--json]             the same, with copies between devices measured beside their predictions
//! hmmap bench SUITE [--quick] [--json F]  measures, beside the machine's own limits
//! hmmap trace [-- PROGRAM]                what a program moves and why: a trace for Perfetto, a map of residency over time
//! hmmap top [--demo] [--once | --json]    nodes, rates and the hottest vectors of a running program, live
//! hmmap completions SHELL
//! ```
#![deny(unsafe_code)]

mod args;
mod bench;
mod demo;
mod info;
mod table;
mod top;
mod topo;
mod trace;
mod words;

use std::{io, process::ExitCode};

use clap::{CommandFactory, Parser};

use args::{Args, Command};

fn main() -> ExitCode {
    match hmmap_bench::play_other_process() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            return ExitCode::FAILURE;
        }
    }
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Info(args) => info::run(args).map(|()| ExitCode::SUCCESS),
        Command::Topo(args) => topo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Top(args) => top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "hmmap", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
