import { createApp } from 'vue'
import App from './App.vue'
import { i18n, markLanguage } from './i18n'
import { router } from './router'
import './style.css'

markLanguage()
createApp(App).use(i18n).use(router).mount('#app')
