// npm's hooks around packing and publishing the main package: node scripts/npm-hooks.mjs HOOK
//   prepack            refuses what is not built, then adds the packages of all platforms as optional dependencies
//   postpack           takes them out again
//   prepublishOnly     refuses `npm publish` here, and names the way
//   version            (of npm version) refuses a version that CHANGELOG.md does not know
// The optional dependencies stand in package.json only in between, since `npm ci` cannot resolve a version that is not
// published yet. npm reads package.json for the registry after `postpack`, so publishing from here would publish a
// package without them: the tarballs are published instead. An interrupted pack leaves them in, which `npm ci` and
// test/unit/package_json.test.ts notice, and the next pack mends.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const manifestPath = join(root, 'package.json');
const { exports: entries, bin } = JSON.parse(readFileSync(manifestPath, 'utf8'));
/** What package.json names in dist/. */
const built = JSON.stringify([entries, bin]).match(/dist\/[\w.-]+/g);

function refuse(why) {
  console.error(`lora-native: ${why}`);
  process.exit(1);
}

const time = (path) => statSync(join(root, path)).mtimeMs;

/** Why dist/ is not what lib/ says, or undefined. */
function unbuilt() {
  const missing = built.find((path) => !existsSync(join(root, path)));
  if (missing) return `${missing} is missing`;
  const oldest = Math.min(...built.map(time));
  const sources = readdirSync(join(root, 'lib'), { recursive: true }).map((file) => join('lib', file));
  const newer = [...sources, 'tsup.config.ts', 'scripts/esm-facade.mjs'].find(
    (path) => !statSync(join(root, path)).isDirectory() && time(path) > oldest,
  );
  if (newer) return `dist/ is older than ${newer}`;
  const { version } = JSON.parse(readFileSync(manifestPath, 'utf8'));
  const has = execFileSync(process.execPath, ['dist/cli.js', '--version'], { cwd: root, encoding: 'utf8' });
  return has.trim() === version ? undefined : `dist/ is of version ${has.trim()}, package.json of ${version}`;
}

/** Writes package.json with the optional dependencies that `make` gives, or without any. */
function setOptionalDependencies(make) {
  const { optionalDependencies, devDependencies, ...manifest } = JSON.parse(
    readFileSync(manifestPath, 'utf8'),
  );
  const added = make?.(manifest.version);
  if (optionalDependencies === undefined && added === undefined) return;
  if (optionalDependencies !== undefined && added !== undefined)
    console.error('lora-native: an interrupted pack had left optionalDependencies in package.json');
  const text = { ...manifest, ...(added && { optionalDependencies: added }), devDependencies };
  writeFileSync(manifestPath, `${JSON.stringify(text, null, 2)}\n`);
}

const hooks = {
  prepack() {
    const why = unbuilt();
    if (why) refuse(`there is nothing to pack, because ${why}: npm run build:js`);
    const platforms = Object.keys(JSON.parse(readFileSync(join(root, 'lib/native/platforms.json'), 'utf8')));
    setOptionalDependencies((version) =>
      Object.fromEntries(platforms.map((platform) => [`@lora-native/${platform}`, version])),
    );
  },
  postpack: () => setOptionalDependencies(),
  prepublishOnly() {
    refuse(
      'the packages of the platforms are published first, and all as tarballs: ' +
        'node scripts/pack.mjs --all && node scripts/publish.mjs',
    );
  },
  version() {
    const { version } = JSON.parse(readFileSync(manifestPath, 'utf8'));
    const headings = readFileSync(join(root, 'CHANGELOG.md'), 'utf8').match(/^## \S+/gm) ?? [];
    if (!headings.includes(`## ${version}`)) refuse(`CHANGELOG.md has no heading "## ${version}"`);
  },
};
const [hook] = process.argv.slice(2);
if (!Object.hasOwn(hooks, hook))
  refuse(`expected one of ${Object.keys(hooks).join(', ')} but received ${hook}`);
hooks[hook]();
