DROP TABLE IF EXISTS forecast_state;
