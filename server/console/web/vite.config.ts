import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vitest/config'
import { mock } from './dev/mock.ts'

// `npm run dev` answers /api itself; with FOREWARN_SERVER=http://127.0.0.1:port it passes requests on to a real server.
const server = process.env.FOREWARN_SERVER

export default defineConfig({
  plugins: [vue(), ...(server ? [] : [mock()])],
  define: {
    __VUE_OPTIONS_API__: 'true',
    __VUE_PROD_DEVTOOLS__: 'false',
    __VUE_I18N_FULL_INSTALL__: 'true',
    __VUE_I18N_LEGACY_API__: 'false',
    __INTLIFY_PROD_DEVTOOLS__: 'false',
  },
  server: server ? { proxy: { '/api': { target: server, secure: false } } } : {},
  // `npm run preview` serves the built console under the policy that the server sends.
  preview: {
    ...(server ? { proxy: { '/api': { target: server, secure: false } } } : {}),
    headers: { 'content-security-policy': "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'" },
  },
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1400,
  },
  // The styles of its parts are imported with them, which Node alone cannot read.
  test: { environment: 'happy-dom', include: ['tests/**/*.test.ts'], server: { deps: { inline: [/element-plus/] } } },
})
