// `npm run test:deep`: what the standard tests leave out.
module.exports = require('./test/support/tiers.cjs').configOf('deep');
