/** Names content that is often found where a safetensors or JSON file should be. */
export function recognize(start: Uint8Array): string | undefined {
  const text = Buffer.from(start.subarray(0, 512)).toString('latin1');
  if (text.startsWith('version https://git-lfs')) {
    return 'is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or download it again';
  }
  if (/^\s*<(!doctype html|html)\b/i.test(text)) {
    return 'is an HTML page, not the file itself: the download was answered by a web page (an error or a login)';
  }
  if (text.startsWith('PK\x03\x04')) {
    return 'is a zip archive (perhaps a PyTorch checkpoint): convert it to safetensors';
  }
  if (text.startsWith('GGUF')) return 'is a GGUF file';
  if (start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
    return 'is a Python pickle: convert it to safetensors';
  if (text.startsWith('\x89HDF')) return 'is an HDF5 file';
  return undefined;
}
