export const textAssets: Record<string, 'text'>;
