/** Why a file could not be read or written, from the error that Node gives. */
export function systemReason(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  switch (code) {
    case 'ENOENT':
      return 'no such file';
    case 'ENOTDIR':
      return 'a part of the path is not a directory';
    case 'EISDIR':
      return 'it is a directory';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied';
    case 'ENOSPC':
      return 'no space left on the device';
    case 'EROFS':
      return 'the file system is read-only';
    case 'EIO':
      return 'the device reports an input or output error';
    case 'ELOOP':
      return 'it is a link, or has too many in its path';
    case undefined:
    default:
      return error instanceof Error ? error.message : String(error);
  }
}
