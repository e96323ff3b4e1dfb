# The product's image for those who build with Docker: `docker build -t tessera .`
# The project itself makes the same content with `cargo xtask image`, which needs no Docker; this file is not part of its tests.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The hook runs in the node's namespaces, where no C library of ours is: so it is static. With a target named, the flag
# does not reach build scripts and macros, which cannot be.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --package tessera-kubelet-plugin --package tessera-controller --package tessera-session-host --package tessera-agent \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package tessera-cdi-hook --target "$target" \
 && mkdir /out \
 && cp target/release/tessera-kubelet-plugin target/release/tessera-controller target/release/tessera-session-host target/release/tessera-agent "target/$target/release/tessera-cdi-hook" /out/

# glibc and libgcc as in the build stage, and no shell.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /out/ /usr/bin/
ENTRYPOINT ["/usr/bin/tessera-kubelet-plugin"]
