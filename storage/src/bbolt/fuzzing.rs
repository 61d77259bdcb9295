//! Making the checksums and page numbers of a bbolt file match, whose other bytes anybody chose.

use super::format::{META_BYTES, META_CHECKED_BYTES, PAGE_HEADER_BYTES, fnv1a, u32_at, u64_at};

/// Makes both meta pages match their checksums.
pub(crate) fn fix_metas(file: &mut [u8]) {
    let page_bytes = page_bytes(file);
    for start in [PAGE_HEADER_BYTES, page_bytes + PAGE_HEADER_BYTES] {
        if let Some(meta) = file.get_mut(start..start + META_BYTES) {
            let checksum = fnv1a(&meta[..META_CHECKED_BYTES]);
            meta[META_CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

/// Gives every page its own number, but for those that belong to the page before.
pub(crate) fn fix_page_numbers(file: &mut [u8]) {
    let page_bytes = page_bytes(file);
    let mut page = 0_usize;
    while let Some(header) = file.get_mut(page * page_bytes..page * page_bytes + PAGE_HEADER_BYTES)
    {
        header[..8].copy_from_slice(&(page as u64).to_le_bytes());
        let overflow = u32_at(header, 12).unwrap_or(0) as usize;
        page = page.saturating_add(1).saturating_add(overflow);
        if page
            .checked_mul(page_bytes)
            .is_none_or(|at| at >= file.len())
        {
            break;
        }
    }
}

/// Puts what the meta pages say of the file's length in order.
pub(crate) fn fix_end(file: &mut [u8]) {
    let page_bytes = page_bytes(file);
    let end = (file.len() / page_bytes) as u64;
    for start in [PAGE_HEADER_BYTES, page_bytes + PAGE_HEADER_BYTES] {
        if let Some(meta) = file.get_mut(start..start + META_BYTES) {
            let said = u64_at(meta, 40).unwrap_or(0);
            meta[40..48].copy_from_slice(&said.min(end).to_le_bytes());
        }
    }
}

fn page_bytes(file: &[u8]) -> usize {
    let said = u32_at(file, PAGE_HEADER_BYTES + 8).unwrap_or(0) as usize;
    said.clamp(1 << 10, 1 << 16)
}
