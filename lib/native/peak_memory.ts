/** The most memory that this process has had. */
import { readFileSync } from 'node:fs';

const status = '/proc/self/status';

/**
 * Bytes of RAM at the peak of this process, mapped pages of files among them; undefined where the system does not tell. On Linux maxRSS begins
 * with what the parent process had when it started this one, so the kernel is asked for VmHWM. The counts of macOS and Windows are of the process alone.
 */
export function peakProcessBytes(): number | undefined {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(status, 'utf8'));
    return peak ? Number(peak[1]) * 1024 : undefined;
  } catch {
    return undefined; // there is no /proc, or Deno keeps it from programs
  }
}
