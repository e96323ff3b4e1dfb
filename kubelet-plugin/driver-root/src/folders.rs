//! Where drivers have their libraries and programs.

/// The library by which a process knows the GPUs.
pub const NVML: &str = "libnvidia-ml.so.1";

/// Where the reference driver looks for libraries below a driver root, in its order. `usr/lib` is
/// not among them: where it is a folder of its own it holds 32-bit libraries.
pub const LIBRARY_FOLDERS: [&str; 7] = [
    "/",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
];

/// Where it looks for programs.
pub const BINARY_FOLDERS: [&str; 5] = ["opt/bin", "usr/bin", "usr/sbin", "bin", "sbin"];

/// The path of a file in one of these folders.
pub fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}
