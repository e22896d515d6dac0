-- Views for targets that only append, where a row that comes again is one row more: the newest row of each key.
-- They need the columns _sdc_extracted_at and _sdc_sequence, which targets made with the Meltano SDK add on
-- `"add_record_metadata": true`.

CREATE VIEW contact_lists_now AS
SELECT * FROM (
       SELECT *, row_number() OVER (PARTITION BY list_id
                                    ORDER BY _sdc_extracted_at DESC, _sdc_sequence DESC) AS newest
       FROM contact_lists) AS rows
WHERE newest = 1;

CREATE VIEW contacts_now AS
SELECT * FROM (
       SELECT *, row_number() OVER (PARTITION BY contact_id
                                    ORDER BY _sdc_extracted_at DESC, _sdc_sequence DESC) AS newest
       FROM contacts) AS rows
WHERE newest = 1;

CREATE VIEW email_campaigns_now AS
SELECT * FROM (
       SELECT *, row_number() OVER (PARTITION BY campaign_id
                                    ORDER BY _sdc_extracted_at DESC, _sdc_sequence DESC) AS newest
       FROM email_campaigns) AS rows
WHERE newest = 1;

CREATE VIEW contact_action_summary_now AS
SELECT * FROM (
       SELECT *, row_number() OVER (PARTITION BY contact_id, campaign_activity_id
                                    ORDER BY _sdc_extracted_at DESC, _sdc_sequence DESC) AS newest
       FROM contact_action_summary) AS rows
WHERE newest = 1;

CREATE VIEW contact_activity_details_now AS
SELECT * FROM (
       SELECT *, row_number() OVER (PARTITION BY contact_id, campaign_activity_id, tracking_activity_type, created_time, occurrence
                                    ORDER BY _sdc_extracted_at DESC, _sdc_sequence DESC) AS newest
       FROM contact_activity_details) AS rows
WHERE newest = 1;
