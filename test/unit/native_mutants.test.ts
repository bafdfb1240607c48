// scripts/native-mutants.mjs: which faults it puts into C++, and that it leaves the sources alone. What it runs is native tests.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const folder = temporaryFolder();
const list = (...args: string[]): string[] => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'scripts/native-mutants.mjs'), '--list', ...args],
    { cwd: root, encoding: 'utf8' },
  );
  expect([status, stderr]).toEqual([0, '']);
  return stdout.trimEnd().split('\n');
};

// Every fault of a source, as "line kind: before → after".
function faultsOf(source: string): string[] {
  const file = join(folder, 'case.cc');
  writeFileSync(file, source);
  const lines = list(file, '--count', '1000').slice(0, -1);
  expect(readFileSync(file, 'utf8')).toBe(source);
  return lines
    .map((line) => line.replace(/^.*case\.cc:(\d+) [0-9a-f]{8} /, '$1 ').replaceAll('`', ''))
    .sort((a, b) => Number.parseInt(a) - Number.parseInt(b) || (a < b ? -1 : 1));
}

test('operators, also of conditions, limits and negations', () => {
  expect(
    faultsOf('bool f(int a, int b) {\n  return a < b && !g(a) || a % b == std::min(a, b);\n}\n'),
  ).toEqual([
    '2 operator: ! → ',
    '2 operator: % → /',
    '2 operator: && → ||',
    '2 operator: < → <=',
    '2 operator: == → !=',
    '2 operator: min → max',
    '2 operator: || → &&',
  ]);
});

test('the first and the last turn of a loop, and constants beside it', () => {
  expect(
    faultsOf('int f(int n) {\n  int s = 7;\n  for (int i = 0; i < n; ++i) s += i;\n  return s + 64;\n}\n'),
  ).toEqual([
    '2 constant: 7 → 6',
    '2 constant: 7 → 8',
    '3 bound: 0 → 1',
    '3 bound: n → n - 1',
    '3 operator: += → -=',
    '3 operator: < → <=',
    '4 constant: 64 → 32',
    '4 operator: + → -',
  ]);
});

test('calls, assignments and early ends that are left out', () => {
  const source = `void f(S& s, int n) {
  if (n == 3) return;
  s.lock();
  s.free(
      n);
  s.count = n;
  const int kept = s.next();
  int also = n;
  use(kept, also);
}
`;
  expect(faultsOf(source).filter((fault) => fault.includes('dropped'))).toEqual([
    '2 dropped: if (n == 3) return; → (void)0;',
    '3 dropped: s.lock(); → (void)0;',
    '4 dropped: s.free( n); → (void)0;',
    '6 dropped: s.count = n; → (void)0;',
    '9 dropped: use(kept, also); → (void)0;',
  ]);
});

test('comments, text, includes, templates and declarations are no code', () => {
  const source = `// a < b && c
#include <a/b.h>
#define LIMIT(x) (x + 1)
/* if (a == 2)
   stop(); */
namespace a {
template <class T, int kN = 4>
T* Make(const T& x, T&& y, std::array<T, 4> z, const char* text = "a + b < 3");
static_assert(sizeof(int) == 4);
enum Kind { kOne = 1 };
char c = '<';
}  // namespace a
`;
  expect(faultsOf(source)).toEqual([]);
});

test('a seed gives the same faults again, of all kinds; another one gives others', () => {
  const pick = (seed: string): string[] => list('native/core', '--count', '24', '--seed', seed);
  const first = pick('1');
  expect(first).toEqual(pick('1'));
  expect(first).not.toEqual(pick('2'));
  expect(first).toHaveLength(25);
  for (const kind of ['operator', 'bound', 'constant', 'dropped'])
    expect(first.filter((line) => line.includes(` ${kind}: `))).toHaveLength(6);
});
