/** Files that the bundle holds as text: tsup.config.ts and jest.config.cjs say how. */
declare module '*.worker.js' {
  const text: string;
  export default text;
}
