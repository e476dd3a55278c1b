//! The binary `forewarn-agent`: everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    forewarn_agent::main()
}
