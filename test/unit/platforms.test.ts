/** The check of a platform's binary by its symbol table (scripts/platforms.mjs), on tables in readelf's words. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

interface Verdict {
  wrong: string[];
  newest: Record<string, string>;
}

/** The script is an ES module, which jest would not load: in a Node of its own. */
function judge(table: string): Verdict {
  const module = pathToFileURL(join(__dirname, '../../scripts/platforms.mjs')).href;
  const program = `
    import { judge, platforms, readElf } from ${JSON.stringify(module)};
    console.log(JSON.stringify(judge(platforms['linux-x64-gnu'].asks, readElf(${JSON.stringify(table)}))));`;
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' }),
  ) as Verdict;
}

const good = [
  ' 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]',
  ' 0x0000000000000001 (NEEDED)             Shared library: [ld-linux-x86-64.so.2]',
  '     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND exp@GLIBC_2.29 (4)',
  '     2: 0000000000000000     0 NOTYPE  WEAK   DEFAULT  UND __gmon_start__',
  '     3: 0000000000000000     0 NOTYPE  GLOBAL DEFAULT  UND napi_create_object',
  '     4: 000000000002b9a0    43 FUNC    GLOBAL DEFAULT   12 napi_register_module_v1',
].join('\n');

test('a binary that asks for no more than the platform has', () => {
  expect(judge(good)).toEqual({ wrong: [], newest: { GLIBC: '2.29' } });
});

test.each([
  [
    'a newer glibc',
    '     5: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND __isoc23_strtol@GLIBC_2.38 (4)',
    'it asks for GLIBC_2.38, newer than GLIBC_2.31',
  ],
  [
    'the C++ library of the machine',
    '     5: 0000000000000000     0 OBJECT  GLOBAL DEFAULT  UND _ZTVSt9exception@GLIBCXX_3.4 (2)',
    'it asks for symbols of GLIBCXX_3.4, which are to be inside it',
  ],
  [
    'another library',
    ' 0x0000000000000001 (NEEDED)             Shared library: [libhwy.so.1]',
    'it needs the library libhwy.so.1',
  ],
  [
    'a function that nothing has',
    '     5: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND _ZN3hwy5AbortEPKciS1_z',
    'nothing defines _ZN3hwy5AbortEPKciS1_z',
  ],
  [
    'a template that others could bind to',
    '     5: 000000000003b9a0    43 FUNC    WEAK   DEFAULT   12 _ZNSt6vectorIiE4pushEv',
    'it exports _ZNSt6vectorIiE4pushEv',
  ],
])('a binary with %s is refused', (_, line, sentence) => {
  expect(judge(`${good}\n${line}`).wrong).toEqual([sentence]);
});

test('versions are compared as numbers: 2.4 is older than 2.31', () => {
  expect(judge(good.replace('GLIBC_2.29', 'GLIBC_2.4')).wrong).toEqual([]);
});

test('a library without the entry of an add-on is refused', () => {
  expect(judge(good.replace('napi_register_module_v1', 'main')).wrong).toContain(
    'it does not export napi_register_module_v1',
  );
});
