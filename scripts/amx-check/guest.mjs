// The machine that Bochs plays: Debian's kernel, a module, init.c, the tests, on an image that isolinux boots. What it takes of
// Debian's packages is unpacked into a folder of the build tree; the machine's own kernel is left alone.
import { spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { clearInterval, setInterval } from 'node:timers';
import { gzipSync } from 'node:zlib';

const sources = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const kernelFlags = [
  'console=ttyS0 quiet acpi=off noapic ibt=off nousershstk nopcid mitigations=off',
  'clearcpuid=arch_perfmon,amx_tile,amx_bf16,amx_int8', // what init.c and tiles.c give to the tests instead
].join(' ');

/** Runs a program; what it prints is in the error where it fails. */
export function must(command, args, options = {}) {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    ...options,
  });
  if (error || status !== 0)
    throw new Error(
      `${command} ${args.join(' ')}: ${error?.message ?? `${stdout}${stderr}`.trim().slice(-2000)}`,
    );
  return stdout;
}

/** The packages of Debian's kernel for virtual machines, which is the smallest: its name changes with each of its versions. */
function kernelPackages() {
  const depends = must('apt-cache', ['depends', 'linux-image-cloud-amd64']);
  const version = /linux-image-(\S+)-cloud-amd64/.exec(depends.split('\n').slice(1).join('\n'))?.[1];
  if (version === undefined) throw new Error('apt-cache knows no linux-image-cloud-amd64');
  return {
    version,
    names: [
      `image-${version}-cloud-amd64`,
      `headers-${version}-cloud-amd64`,
      `headers-${version}-common`,
      `kbuild-${version}`,
    ],
  };
}

/** Downloads the kernel's packages and unpacks them into `folder`, all or nothing. */
function unpackInto(folder, names) {
  const part = `${folder}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  console.log(`downloading linux-{${names.join(',')}} (55 MB) to ${folder}: nothing of it is installed`);
  must('apt-get', ['download', '-qq', ...names.map((name) => `linux-${name}`)], { cwd: part });
  for (const file of readdirSync(part)) {
    must('dpkg-deb', ['-x', file, '.'], { cwd: part });
    rmSync(join(part, file));
  }
  renameSync(part, folder);
}

/** Finds the kernel, downloading it where it is not below `folder`; returns its path and the place of its packages. */
export function kernelIn(folder) {
  const { version, names } = kernelPackages();
  const unpacked = join(folder, version);
  if (!existsSync(unpacked)) unpackInto(unpacked, names);
  return {
    unpacked,
    headers: join(unpacked, `usr/src/linux-headers-${version}-cloud-amd64`),
    kernel: join(unpacked, `boot/vmlinuz-${version}-cloud-amd64`),
  };
}

/** Builds tiles.ko for that kernel, and returns its path. */
export function buildModule({ unpacked, headers }) {
  // The headers name the folders that their package installs to.
  const makefile = join(headers, 'Makefile');
  const installed = readFileSync(makefile, 'utf8');
  writeFileSync(makefile, installed.replace(/^include \/usr/m, `include ${unpacked}/usr`));
  const module = join(unpacked, 'module');
  mkdirSync(module, { recursive: true });
  copyFileSync(join(sources, 'tiles.c'), join(module, 'tiles.c'));
  writeFileSync(join(module, 'Makefile'), 'obj-m := tiles.o\n');
  // Built by the compiler at hand, which may be older than the kernel's and lack its newest options.
  const without = ['CC=gcc', 'CONFIG_DEBUG_INFO_BTF_MODULES=', 'CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT='];
  must('make', ['-C', headers, `M=${module}`, ...without, 'modules']);
  return join(module, 'tiles.ko');
}

/** An archive as Linux unpacks it before it starts /init (cpio, "newc"). */
function archive(files) {
  const padded = (bytes) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
  const parts = [...files, ['TRAILER!!!', Buffer.alloc(0)]].flatMap(([name, bytes], index) => {
    const fields = [index + 1, 0o100755, 0, 0, 1, 0, bytes.length, 0, 0, 0, 0, name.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    return [padded(Buffer.from(header)), padded(bytes)];
  });
  return Buffer.concat(parts);
}

/** Writes the image of a guest that runs `program` with `lines`: its environment and its arguments (init.c). */
export function writeGuest(folder, kernel, module, program, lines) {
  const disk = join(folder, 'disk');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(disk, { recursive: true });
  const init = join(folder, 'init');
  const tests = join(folder, 'cpu_tests');
  must('gcc', ['-O1', '-static', '-Wall', '-Werror', join(sources, 'init.c'), '-o', init]);
  must('strip', [program, '-o', tests]);
  const files = [
    ['init', readFileSync(init)],
    ['tiles.ko', readFileSync(module)],
    ['cpu_tests', readFileSync(tests)],
    ['arguments', Buffer.from(`${lines.join('\n')}\n`)],
  ];
  writeFileSync(join(disk, 'initrd'), gzipSync(archive(files), { level: 1 }));
  copyFileSync(kernel, join(disk, 'linux'));
  copyFileSync('/usr/lib/ISOLINUX/isolinux.bin', join(disk, 'isolinux.bin'));
  copyFileSync('/usr/lib/syslinux/modules/bios/ldlinux.c32', join(disk, 'ldlinux.c32'));
  writeFileSync(
    join(disk, 'isolinux.cfg'),
    `DEFAULT tests\nPROMPT 0\nLABEL tests\nKERNEL /linux\nINITRD /initrd\nAPPEND ${kernelFlags}\n`,
  );
  const boot = '-b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table'.split(' ');
  must('xorriso', ['-as', 'mkisofs', '-quiet', '-o', 'boot.iso', ...boot, 'disk'], { cwd: folder });
  // BIOS-bochs-legacy: the other one enters system management, which refuses the CR4 of such a CPU. `rfb` is the one display
  // that needs no screen; nobody connects to it.
  writeFileSync(
    join(folder, 'bochsrc'),
    `display_library: rfb, options="timeout=0"
megs: 1024
cpu: model=sapphire_rapids, count=1, ips=50000000
romimage: file=/usr/share/bochs/BIOS-bochs-legacy
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
panic: action=fatal
clock: sync=none
`,
  );
}

/** Runs the guest in `folder` until it says its status; resolves with what it printed, and whether the time ran out. */
export function runGuest(folder, milliseconds) {
  const serial = join(folder, 'serial.txt');
  const bochs = spawn('bochs', ['-q', '-f', 'bochsrc'], { cwd: folder, stdio: 'ignore' });
  const stop = () => bochs.kill('SIGKILL');
  process.once('exit', stop);
  const read = () => (existsSync(serial) ? readFileSync(serial, 'utf8').replaceAll('\r', '') : '');
  return new Promise((resolve, reject) => {
    let late = false;
    const limit = setTimeout(() => {
      late = true;
      stop();
    }, milliseconds);
    const look = setInterval(() => {
      if (/^exit status \d+$/m.test(read())) stop();
    }, 500);
    const settle = (end) => {
      clearTimeout(limit);
      clearInterval(look);
      process.off('exit', stop);
      end();
    };
    bochs.on('error', (error) => settle(() => reject(error)));
    bochs.on('exit', () => settle(() => resolve({ text: read(), late })));
  });
}
