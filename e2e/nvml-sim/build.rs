//! Gives the library the name under which programs ask for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    // The real library needs the C library alone, and so must this one: the containers that it is
    // mounted into have nothing else for sure. The unwinder therefore comes from the static archive.
    println!("cargo::rustc-link-lib=dylib:+verbatim=libgcc_eh.a");
}
