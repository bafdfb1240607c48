import { existsSync, readFileSync } from 'node:fs';

const status = '/proc/self/status';

/**
 * The most RAM in bytes that this process has had, mapped pages of files among it. On Linux that is VmHWM, because
 * maxRSS counts what the parent process had when this one was started.
 */
export const peakBytes = () =>
  existsSync(status)
    ? Number(/VmHWM:\s+(\d+)/.exec(readFileSync(status, 'utf8'))[1]) * 1024
    : process.resourceUsage().maxRSS * 1024;
