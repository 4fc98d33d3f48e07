import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vitest/config'

/** Where `npm run dev` finds a node. Its Origin check wants to see its own address. */
const node = 'http://localhost:30069'

export default defineConfig({
  plugins: [vue()],
  define: { __VUE_OPTIONS_API__: 'false', __VUE_PROD_DEVTOOLS__: 'false' },
  build: {
    target: 'es2022',
    // The policy of the page allows no inline code and no data: scripts or styles.
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { '/api': { target: node, changeOrigin: true, ws: true, headers: { origin: node } } } },
  test: { environment: 'happy-dom', include: ['src/**/*.test.ts'] },
})
