//! Writes the smallest shared object that the loader and `ldconfig` take.
//!
//! One readable segment with the dynamic section and its tables, no code, no symbols. It names the
//! C library as needed, because `ldconfig` tells by that which ABI a library is for.

const HEADER_LEN: u64 = 64;
const PROGRAM_HEADER_LEN: u64 = 56;
const PAGE: u64 = 0x1_0000;

/// Offsets of what follows the two program headers.
const DYNAMIC: u64 = HEADER_LEN + 2 * PROGRAM_HEADER_LEN;
const DYNAMIC_LEN: u64 = 8 * 16;
const HASH: u64 = DYNAMIC + DYNAMIC_LEN;
const HASH_LEN: u64 = 16;
const SYMBOLS: u64 = HASH + HASH_LEN;
const SYMBOL_LEN: u64 = 24;
const STRINGS: u64 = SYMBOLS + SYMBOL_LEN;

/// A shared object with the name `soname`; `note` stands in it for whoever looks.
pub(super) fn shared_object(soname: &str, note: &str) -> Vec<u8> {
    let strings = format!("\0{soname}\0libc.so.6\0{note}\0");
    let needed = 1 + soname.len() as u64 + 1;
    let strings_len = strings.len() as u64;
    let len = STRINGS + strings_len;

    let mut object = header();
    // PT_LOAD and PT_DYNAMIC. The loader writes into the dynamic section, so the segment is writable.
    object.extend(program_header(1, 0, len, PAGE));
    object.extend(program_header(2, DYNAMIC, DYNAMIC_LEN, 8));
    let dynamic: [(u64, u64); 8] = [
        (1, needed),       // DT_NEEDED
        (14, 1),           // DT_SONAME
        (4, HASH),         // DT_HASH
        (5, STRINGS),      // DT_STRTAB
        (6, SYMBOLS),      // DT_SYMTAB
        (10, strings_len), // DT_STRSZ
        (11, SYMBOL_LEN),  // DT_SYMENT
        (0, 0),            // DT_NULL
    ];
    object.extend(
        dynamic
            .iter()
            .flat_map(|(tag, value)| [*tag, *value])
            .flat_map(u64::to_le_bytes),
    );
    // One bucket, one chain entry, both empty: there is only the symbol that means none.
    object.extend([1_u32, 1, 0, 0].into_iter().flat_map(u32::to_le_bytes));
    object.extend([0; 24]);
    object.extend(strings.as_bytes());
    object
}

fn header() -> Vec<u8> {
    // 64 bit, little endian, ELF version 1, System V ABI.
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(3_u16.to_le_bytes()); // ET_DYN
    header.extend(machine().to_le_bytes());
    header.extend(1_u32.to_le_bytes()); // ELF version
    header.extend(0_u64.to_le_bytes()); // no entry point
    header.extend(HEADER_LEN.to_le_bytes()); // program headers follow
    header.extend(0_u64.to_le_bytes()); // no section headers
    header.extend(0_u32.to_le_bytes()); // no flags
    for half in [HEADER_LEN, PROGRAM_HEADER_LEN, 2, 64, 0, 0] {
        header.extend(&half.to_le_bytes()[..2]);
    }
    header
}

/// The `e_machine` of the machine that this runs on.
const fn machine() -> u16 {
    if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    }
}

fn program_header(kind: u32, offset: u64, len: u64, align: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(6_u32.to_le_bytes()); // readable, writable
    for word in [offset, offset, offset, len, len, align] {
        header.extend(word.to_le_bytes());
    }
    header
}
