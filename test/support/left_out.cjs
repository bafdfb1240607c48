/** Says at the end of `npm test` that it has not run everything. */
module.exports = class LeftOut {
  onRunComplete() {
    console.log(
      'npm test leaves out what runs on dist/ or the emulator, and scripts/ and docs/: npm run test:all runs all.',
    );
  }
};
