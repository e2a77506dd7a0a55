//! Entry point: everything, argv[0] dispatch included, lives in `naru-app`.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
