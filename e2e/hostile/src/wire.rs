//! HTTP/2 as bytes, for peers that do not keep to it (RFC 9113, RFC 7541).

/// What a client sends before its first frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kind of a frame: a part of a body.
pub const DATA: u8 = 0;
/// Kind of a frame: what opens a stream.
pub const HEADERS: u8 = 1;
/// Kind of a frame: the end of a stream before its time.
pub const RST_STREAM: u8 = 3;
/// Kind of a frame: what a peer keeps to.
pub const SETTINGS: u8 = 4;
/// Kind of a frame: it asks for an answer.
pub const PING: u8 = 6;

/// None of the flags of a frame.
pub const NO_FLAGS: u8 = 0;
/// Flag of [`DATA`] and [`HEADERS`]: nothing follows on the stream.
pub const END_STREAM: u8 = 1;
/// Flag of [`HEADERS`]: they are complete.
pub const END_HEADERS: u8 = 4;

/// Path of the call that prepares claims.
pub const PREPARE: &str = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources";

/// A frame whose length is true.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload of less than 4 GiB");
    assert!(length < 1 << 24, "a frame's length has three bytes");
    let length = length.to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client says first.
pub fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, NO_FLAGS, 0, &[])].concat()
}

/// The headers of a call, the body of which is still to come.
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed; every length here fits into seven bits.
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("a name or value of at most 126 bytes"));
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Streams that a client opens.
pub fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}
