/** Says at the end of `npm test` that it has not run everything. */
module.exports = class LeftOut {
  onRunComplete() {
    console.log(
      'npm test leaves out what runs on dist/ or the emulator, scripts/, docs/, and what is slow (jest.config.everyday.cjs): npm run test:all runs all.',
    );
  }
};
