//! Entry point: everything, dispatch by `argv[0]` included, lives in `naru-app`.

fn main() -> std::process::ExitCode {
    naru_app::main(std::env::args_os().collect())
}
