/** What would be a download: refused with what to do instead, and never ignored. */
import { CausalLM, readAdapter } from '../../lib/index';
import { inspect } from '../../lib/cli/inspect';
import { toFolder } from '../../lib/formats/paths';
import { expectReject, expectThrow } from '../support/errors';

const says = (what: string, command: string): string =>
  `${what}, and nothing is downloaded yet: download it (${command}) and pass the folder`;

const calls: [op: string, call: (source: string) => Promise<unknown>][] = [
  ['from_pretrained', (source) => CausalLM.fromPretrained(source)],
  ['readAdapter', (source) => readAdapter(source)],
  ['inspect', async (source) => inspect.run({}, {} as never, [source])],
];

describe.each(calls)('%s of', (op, call) => {
  test.each([
    ['hf:org/name', 'hf:org/name is of the hub', 'hf download org/name --local-dir name'],
    ['hf:org/name@v1', 'hf:org/name@v1 is of the hub', 'hf download org/name --revision v1 --local-dir name'],
    ['hf:', 'hf: is of the hub', 'hf download ORG/NAME --local-dir NAME'],
    ['org/na.me-1', 'there is no folder org/na.me-1', 'hf download org/na.me-1 --local-dir na.me-1'],
  ])('%s', async (source, what, command) => {
    await expectReject(call(source), 'ERR_UNSUPPORTED', `[${op}] ${says(what, command)}`);
  });

  test.each(['./org/name', '/org/name', 'org', 'org/name/deep', '../name', ''])(
    'the path %s',
    async (source) => {
      const error = (await call(source).catch((thrown: unknown) => thrown)) as { code: string };
      expect(error.code).toBe(source === '' ? 'ERR_ARGUMENT' : 'ERR_FILE');
    },
  );
});

test('a folder that is there is taken', () => {
  expect(toFolder('examples/base-model', 'x')).toBe('examples/base-model');
  expectThrow(
    () => toFolder('examples/no-model', 'x'),
    'ERR_UNSUPPORTED',
    /there is no folder examples\/no-model/,
  );
});

test.each(['revision', 'token'])('%s is no option of a folder', async (name) => {
  const error = await expectReject(
    CausalLM.fromPretrained('examples/base-model', { [name]: 'a secret' }),
    'ERR_UNSUPPORTED',
    `[from_pretrained] ${name} is for models of the hub, of which nothing is downloaded yet: ` +
      `download it (hf download ORG/NAME --local-dir NAME) and pass the folder, without ${name}`,
  );
  expect(error.message).not.toContain('secret');
});
