/// <reference types="vite/client" />
import 'vue-router'

declare module 'vue-router' {
  interface RouteMeta {
    /** Message key of the page's title. */
    title: string
    /** Shown without a session. */
    open?: boolean
    /** The menu entry that the page belongs to, when it is not its own. */
    section?: string
  }
}
